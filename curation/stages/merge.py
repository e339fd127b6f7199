"""The third caption, merged from the other two, and the choice among the three.

SVD (arXiv 2311.15127, Sec. 3) lets a language model merge the captions of CoCa and V-BLIP. Here any OpenAI-compatible
endpoint does that; without one a template merges, offline and deterministic. Requests go to the configured URL alone.
"""

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from curation.config_error import CurationError
from curation.model_config import ChoiceConfig, MergeConfig

INSTRUCTION = (
    "You are given two captions of one video clip: the first describes a single frame, the second the whole clip. "
    "Merge them into one plain sentence that keeps what both say, prefers the second where they disagree, and adds "
    "nothing. Answer with that sentence only."
)
COLUMNS = ("caption_coca", "caption_video", "caption_llm")
SHARES = (0.5, 0.25, 0.25)
_REMEMBERED = 4096


class MergeError(CurationError):
    """The language model gave no caption."""


def merge(image_caption: str, video_caption: str) -> str:
    """One sentence for both: the video caption, plus the image caption when that says something more."""
    if not image_caption or set(_words(image_caption)) <= set(_words(video_caption)):
        return video_caption
    if not video_caption or set(_words(video_caption)) <= set(_words(image_caption)):
        return image_caption
    return f"{video_caption}, {image_caption}"


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())


def choose(
    caption_coca: str | None, caption_video: str | None, caption_llm: str | None, config: ChoiceConfig
) -> str | None:
    """The caption that becomes `caption`: `config.chosen`, or where that is missing or empty the first of llm, video,
    coca that says something; empty where all that were made are, null where none was made.
    """
    captions = {"coca": caption_coca, "video": caption_video, "llm": caption_llm}
    order = [config.chosen, "llm", "video", "coca"]
    made = [text for text in (captions[name] for name in order) if text is not None]
    return next((text for text in made if text), "" if made else None)


def sample_caption(captions: Mapping[str, object], generator: np.random.Generator, p: Sequence[float] = SHARES) -> str:
    """One of caption_coca, caption_video, caption_llm (a row of `clips`) with probabilities `p`, as SVD trains.

    Missing ones (null, NaN, empty) leave their share to the others. Always one draw.

    Raises:
        CurationError: no caption at all.
    """
    draw = generator.random()
    texts = [captions.get(column) for column in COLUMNS]
    weights = np.array([share if isinstance(text, str) and text else 0.0 for text, share in zip(texts, p, strict=True)])
    if not weights.sum() > 0:
        raise CurationError(
            f"none of {', '.join(COLUMNS)} has a caption to sample: leave out clips whose caption is null"
        )
    place = int(np.searchsorted(np.cumsum(weights / weights.sum()), draw, side="right"))
    return str(texts[min(place, int(np.flatnonzero(weights)[-1]))])


class Merger:
    """Merges pairs of captions, by the template or by the language model at `config.llm_url`."""

    def __init__(self, config: MergeConfig) -> None:
        self.config = config
        self._remembered: dict[tuple[str, str], str] = {}
        if config.llm_url is not None:
            import openai  # here and below: the template and `sample_caption` do without it

            self._client = openai.OpenAI(
                base_url=config.llm_url,
                api_key=os.environ.get(config.llm_key_variable) or "none",
                timeout=config.llm_timeout_s,
                max_retries=config.llm_max_retries,
            )

    def merge(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        """n pairs (image caption, video caption) → n captions, in their order.

        Answers are remembered, so pairs of a failed batch that is tried again are not asked twice.

        Raises:
            MergeError: the endpoint gave no caption for one of them, and `llm_failure` is error.
        """
        if self.config.llm_url is None:
            return [merge(*pair) for pair in pairs]
        with ThreadPoolExecutor(self.config.llm_concurrency) as pool:
            answers = {pair: pool.submit(self._answer, pair) for pair in dict.fromkeys(pairs)}
        self._remember({pair: done.result() for pair, done in answers.items() if done.exception() is None})
        return [answers[pair].result() for pair in pairs]

    def _remember(self, answers: dict[tuple[str, str], str]) -> None:
        """Keep the newest `_REMEMBERED` answers."""
        newest = list({**self._remembered, **answers}.items())[-_REMEMBERED:]
        self._remembered = dict(newest)

    def _answer(self, pair: tuple[str, str]) -> str:
        if not all(pair):
            return merge(*pair)  # one of the two is missing: there is nothing to merge
        if pair in self._remembered:
            return self._remembered[pair]
        try:
            return self._ask(*pair)
        except MergeError:
            if self.config.llm_failure == "error":
                raise
            return merge(*pair)

    def _ask(self, image_caption: str, video_caption: str) -> str:
        """One request, repeated by the client after failures that may pass, each time after a longer wait."""
        import openai

        where = f"{self.config.llm_url} (model {self.config.llm_model})"
        temperature = openai.omit if self.config.llm_temperature is None else self.config.llm_temperature
        try:
            answer = self._client.chat.completions.create(
                model=str(self.config.llm_model),
                messages=[
                    {"role": "system", "content": INSTRUCTION},
                    {"role": "user", "content": f"Frame: {image_caption}\nClip: {video_caption}"},
                ],
                temperature=temperature,
            )
        except openai.AuthenticationError as error:
            raise MergeError(f"{where} refuses the key: set {self.config.llm_key_variable} for the workers") from error
        except (openai.OpenAIError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise MergeError(
                f"{where} gave no caption ({type(error).__name__}: {reason}): see that it runs, then run the command "
                "again"
            ) from error
        return _sentence(answer, where)


def check_endpoint(config: MergeConfig) -> None:
    """Ask for one caption before any work, so that a wrong URL, model or key ends a job at its start.

    Raises:
        MergeError: the endpoint gives none, whatever `llm_failure` says. Without an endpoint nothing is asked.
    """
    if config.llm_url is not None:
        Merger(replace(config, llm_failure="error")).merge([("a red star", "a star spins in the forest")])


def _sentence(answer: object, where: str) -> str:
    """The text of an answer on one line, quotation marks taken off."""
    from openai.types.chat import ChatCompletion

    choices = answer.choices if isinstance(answer, ChatCompletion) else None
    if not choices or not choices[0].message or not isinstance(choices[0].message.content, str):
        raise MergeError(f"{where} answered without a message: give the base URL of an OpenAI-compatible endpoint")
    if choices[0].finish_reason == "length":
        raise MergeError(f"{where} broke off in the middle of a caption: allow it longer answers")
    text = " ".join(choices[0].message.content.split())
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].strip()
    if not text:
        raise MergeError(f"{where} answered with an empty caption: try another model (merge.llm_model)")
    return text
