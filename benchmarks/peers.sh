#!/bin/sh
# The peers of benchmarks/curation.py and benchmarks/lumiere.py, each in an environment of its own, with what the measured operators import.
#
#   benchmarks/peers.sh [FOLDER]        default: $XDG_CACHE_HOME/nuwa-bench/peers (~/.cache/nuwa-bench/peers)
#
# PYTHON names the interpreter (3.10 … 3.12; all were measured with 3.11; for lumiere-pytorch the one that measures). Environments that are there are kept.
set -eu
FOLDER=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/nuwa-bench/peers}
PYTHON=${PYTHON:-python3}
PIP="-m pip install --quiet --disable-pip-version-check"
mkdir -p "$FOLDER"

make_env() { # NAME
  test -x "$FOLDER/$1/bin/python" || "$PYTHON" -m venv "$FOLDER/$1"
}

# data-juicer: all its requirements, and of its extras what the two video operators import (it would install ray by itself
# in the middle of a measurement). Splitting needs an ffmpeg program, which imageio-ffmpeg brings; scenedetect-headless
# is the scenedetect that works without libGL.
make_env data_juicer
"$FOLDER/data_juicer/bin/python" $PIP py-data-juicer==1.6.1 av==13.1.0 scenedetect-headless==0.7.2 imageio-ffmpeg \
  ffmpeg-python aiohttp "ray>=2.51,<3"

# video2dataset pins torch 2.1 and much else that cut detection never touches: without its requirements, plus those of
# the one operator (numpy below 2 and scenedetect 0.6.2 are its own pins).
make_env video2dataset
"$FOLDER/video2dataset/bin/python" $PIP --no-deps video2dataset==1.3.0 scenedetect==0.6.2
"$FOLDER/video2dataset/bin/python" $PIP "numpy<2" "opencv-python-headless<4.12" click platformdirs tqdm "setuptools<81"

# lumiere-pytorch: without its requirements, into a folder of its own that stands before this project's packages on
# PYTHONPATH; torch and einops are those of the measuring interpreter, so both networks run on one version.
"$PYTHON" $PIP --no-deps --upgrade --target "$FOLDER/lumiere" lumiere-pytorch==0.0.24 x-transformers==1.30.4 \
  beartype==0.18.5 optree==0.13.1

echo "$FOLDER"
