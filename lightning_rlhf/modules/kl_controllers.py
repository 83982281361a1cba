"""What happens to the KL coefficient after each rollout."""

from abc import ABC, abstractmethod

from lightning_rlhf.arguments import require_at_least, require_positive
from lightning_rlhf.errors import ConfigError

__all__ = ["AdaptiveKL", "FixedKL", "KLController"]


class KLController(ABC):
    """Decides the next KL coefficient from the KL that was measured."""

    @abstractmethod
    def update(self, kl_coef: float, *, kl: float, num_sequences: int) -> float:
        """The coefficient for the next rollout.

        Args:
            kl_coef: the coefficient that the rollout used.
            kl: mean over the global rollout's sequences of the sum over tokens of k1, nats.
            num_sequences: responses in the global rollout.
        """


class FixedKL(KLController):
    """The coefficient stays what `kl_coef` says."""

    def update(self, kl_coef: float, *, kl: float, num_sequences: int) -> float:
        """The same coefficient.

        >>> FixedKL().update(0.1, kl=30.0, num_sequences=64)
        0.1
        """
        return kl_coef


class AdaptiveKL(KLController):
    """Proportional control that steers the KL towards a target (Ziegler et al. 2019, section 2.2).

        e = clip(KL / target - 1, -0.2, 0.2);   kl_coef <- kl_coef * (1 + e * n / horizon)

    Args:
        target: KL to the reference to hold, nats per response.
        horizon: responses after which a full error has changed the coefficient by about a fifth; smaller is faster.
    """

    def __init__(self, target: float = 6.0, horizon: int = 10_000) -> None:
        require_positive(of="AdaptiveKL", target=target)
        require_at_least(1, of="AdaptiveKL", horizon=horizon)
        self.target = target
        self.horizon = horizon

    def update(self, kl_coef: float, *, kl: float, num_sequences: int) -> float:
        """The coefficient after one proportional step.

        >>> round(AdaptiveKL(target=6.0, horizon=1000).update(0.1, kl=12.0, num_sequences=100), 6)
        0.102

        Raises:
            ConfigError: one step could take the coefficient to zero or below, where a KL would be rewarded.
        """
        if num_sequences >= 5 * self.horizon:
            raise ConfigError(
                f"the horizon of AdaptiveKL must be more than a fifth of an iteration's responses ({num_sequences}), "
                f"got {self.horizon}."
            )
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        return kl_coef * (1.0 + error * num_sequences / self.horizon)
