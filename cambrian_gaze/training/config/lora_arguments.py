"""Settings of a run: LoRA. Names and defaults are LLaVA's; `arguments.py` has the other fields."""

import dataclasses
from typing import Literal

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Linear layers of a decoder layer."""


@dataclasses.dataclass
class LoraArguments:
    """Low-rank adapters on the decoder of a trained model, in place of training the decoder itself."""

    lora_enable: bool = False
    """Train low-rank adapters of the decoder; projector and context tokens train whole beside them."""

    lora_r: int = 64
    """Rank of the adapters."""

    lora_alpha: float = 16.0
    """The adapters' product is scaled by `lora_alpha` / `lora_r`."""

    lora_dropout: float = 0.05
    """Dropout on the adapters' input."""

    lora_target: list[str] | None = None
    """Names of the decoder's linear layers that get an adapter, such as `q_proj v_proj`; by default all seven of each
    decoder layer."""

    bits: Literal[4, 8, 16] = 16
    """4 or 8: the frozen decoder is held in NF4 or int8 by bitsandbytes (QLoRA). 16: as `bf16` says."""

    double_quant: bool = True
    """With 4 bits, the scales of the weights are quantised too."""

    def __post_init__(self) -> None:
        if self.lora_r < 1 or self.lora_alpha <= 0 or not 0 <= self.lora_dropout < 1:
            raise ValueError(
                "lora_r must be at least 1, lora_alpha positive and lora_dropout in [0, 1), got "
                f"{self.lora_r}, {self.lora_alpha} and {self.lora_dropout}"
            )
        others = {f.name: f.default for f in dataclasses.fields(self) if f.name not in ("lora_enable", "bits")}
        given = [name for name, default in others.items() if getattr(self, name) != default]
        if given and not self.lora_enable:
            raise ValueError(
                f"{' and '.join(given)}: without effect, since lora_enable is off; set it, or leave them out"
            )
        if not self.double_quant and self.bits != 4:
            raise ValueError(f"double_quant: without effect with bits {self.bits}; it is about 4; leave it out")
        if self.bits != 16 and not self.lora_enable:
            raise ValueError(
                f"bits {self.bits} holds weights that cannot be trained themselves; set lora_enable, or leave bits out"
            )
