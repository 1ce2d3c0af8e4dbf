"""The model: tensors in, tensors out. Knows configs; knows no files of a corpus, no losses, no devices.

Importing this package declares torchvision's operators where a CPU-only torch cannot load them
(see `torchvision_ops`), before timm or transformers, which both import torchvision, are imported by its modules.
"""

from unimir.model.torchvision_ops import declare_missing_operators

declare_missing_operators()
