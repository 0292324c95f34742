"""Vision towers: one declaration per family says all that the package must know of a tower.

That is: which output is the features of the patches and on what grid they stand, how a picture becomes pixels, what the
tensors of a checkpoint are called, and what of the tower its features do not depend on. A family is found by the
`model_type` of the tower's configuration.

Another tower needs no change of this package. Declare it before a model with such a tower is made or loaded, in every
process that does so:

```python
from cambrian_gaze.models.tower import TowerFamily, register_tower

register_tower(
    TowerFamily(
        model_type="dinov2_with_registers",  # of the configuration, as transformers has it
        title="DINOv2 with registers",
        image_mean=(0.485, 0.456, 0.406),
        image_std=(0.229, 0.224, 0.225),
        leading_tokens=lambda config: 1 + config.num_register_tokens,  # stand before the patches
        prefixes=("dinov2_with_registers.",),  # of a checkpoint's tensors, where it holds more than the tower
        left_out={"classifier.": "the classifier"},
        layers="encoder.layer",
        behind_layers=("layernorm",),
        never_used=("embeddings.mask_token",),
    )
)
```

Then `cambrian_gaze.cli.main.main(["init", …])`, training and loading take it by its folder or Hub id. Its configuration
needs `hidden_size`, `num_hidden_layers`, `image_size` and `patch_size` as whole numbers. A tower of your own classes is
first made known to transformers by `AutoConfig.register` and `AutoModel.register`.
"""

from cambrian_gaze.models.tower.family import TowerFamily
from cambrian_gaze.models.tower.registry import family_of, known_towers, register_tower

__all__ = ["TowerFamily", "family_of", "known_towers", "register_tower"]
