"""Loss of the autoencoder stages: reconstruction, perceptual distance, KL, and a discriminator to deceive."""

import torch
from einops import rearrange
from torch import nn

from nuwa.models.discriminator import PatchDiscriminator, adaptive_weight, adversarial_loss, hinge_loss, layers_for
from nuwa.models.perceptual import Lpips, check_size
from nuwa.train import draws as random_draws
from nuwa.train.config import TrainConfig
from nuwa.train.stages import Adversary, Losses


def autoencoder_losses(decoded: torch.Tensor, pixels: torch.Tensor, posterior: object, kl_weight: float) -> Losses:
    """Mean absolute error plus weighted KL to a standard normal, both per element."""
    mean, logvar = posterior.mean.float(), posterior.logvar.float()  # type: ignore[attr-defined]
    kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
    error = decoded.float() - pixels
    l1 = error.abs().mean()
    psnr = -10.0 * torch.log10(error.detach().square().mean() / 4.0)
    return {"loss": l1 + kl_weight * kl, "l1": l1, "kl": kl, "psnr": psnr}


def sample_posterior(posterior: object, seed: int, draws: range) -> torch.Tensor:
    """One latent per row, its noise from the generator of its own draw."""
    mean, logvar = posterior.mean, posterior.logvar  # type: ignore[attr-defined]
    noise = random_draws.noise(seed, draws, tuple(mean.shape[1:])).to(mean)
    return mean + (0.5 * logvar).exp() * noise


class AutoencoderLoss:
    """The image KLVAE's loss (NUWA-XL Sec. 3.1; its terms as in VQGAN, arXiv 2012.09841, Sec. 3.2).

    Paper: reconstruction, LPIPS, KL, adversarial, weights not stated; here: the middle two terms need networks, so
    LPIPS counts where its weights are given and the discriminator where `adversarial_weight` is above 0; otherwise the
    loss is mean absolute error plus KL. As in Stable Diffusion's autoencoder, LPIPS weighs 1 beside the error.

    size: height and width of the frames in pixels; temporal_kernel: frames that the discriminator sees at once
    """

    def __init__(
        self, config: TrainConfig, size: tuple[int, int], device: torch.device, temporal_kernel: int = 1
    ) -> None:
        self.config = config
        self.lpips: Lpips | None = None
        self.adversary: Adversary | None = None
        if config.lpips_weights is not None:
            check_size(*size)
            self.lpips = Lpips.from_file(config.lpips_weights).to(device)
        if config.adversarial_weight > 0:
            self.adversary = Adversary(_discriminator(config.seed, size, temporal_kernel).to(device))

    def __call__(
        self, decoded: torch.Tensor, video: torch.Tensor, posterior: object, last_layer: torch.Tensor
    ) -> Losses:
        """Scalars by name, `loss` to minimise, `discriminator` for its optimiser to minimise.

        decoded, video: (b 3 t h w); posterior: mean and logvar of any shape; last_layer: weight of the decoder's last
        layer that trains, where the adaptive weight is measured
        """
        losses = autoencoder_losses(decoded, video, posterior, self.config.kl_weight)
        reconstruction = losses["l1"]
        if self.lpips is not None:
            losses["lpips"] = self.lpips(_frames(decoded), _frames(video)).mean()
            weighted = self.config.perceptual_weight * losses["lpips"]
            losses["loss"], reconstruction = losses["loss"] + weighted, reconstruction + weighted
        if self.adversary is not None and self.adversary.playing:
            self._play(self.adversary.module, decoded, video, losses, reconstruction, last_layer)
        return losses

    def _play(
        self,
        discriminator: nn.Module,
        decoded: torch.Tensor,
        video: torch.Tensor,
        losses: Losses,
        reconstruction: torch.Tensor,
        last_layer: torch.Tensor,
    ) -> None:
        """Add the adversarial term to `loss`, and the discriminator's own loss."""
        fixed = {name: weight.detach() for name, weight in discriminator.named_parameters()}
        deceit = adversarial_loss(torch.func.functional_call(discriminator, fixed, (decoded,)))
        scale = torch.ones_like(deceit)
        if self.config.adversarial_balance == "adaptive":
            scale = adaptive_weight(reconstruction, deceit, last_layer)
        losses["loss"] = losses["loss"] + self.config.adversarial_weight * scale * deceit
        losses["adversarial"], losses["adversarial_scale"] = deceit, scale
        losses["discriminator"] = hinge_loss(discriminator(video), discriminator(decoded.detach()))


def _discriminator(seed: int, size: tuple[int, int], temporal_kernel: int) -> PatchDiscriminator:
    """A new discriminator, the same in every worker; the state of the global random numbers stays."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PatchDiscriminator(layers=layers_for(*size), temporal_kernel=temporal_kernel)


def _frames(video: torch.Tensor) -> torch.Tensor:
    """(b 3 t h w) → ((b t) 3 h w)."""
    return rearrange(video, "b c t h w -> (b t) c h w")
