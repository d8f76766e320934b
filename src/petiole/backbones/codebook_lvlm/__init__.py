"""Vision-language models whose language model sees nothing but entries of a frozen codebook (CRAFT; VILA-U).

x  ->  E  ->  z  ->  residual quantiser  ->  z^  ->  projector  ->  language model  <-  question

codebook    ``CodebookSpec``, the contract between an encoder and every model that it fits
tower       encoder, quantiser, and the image and text heads of the contrastive loss: what models share
causal      any causal language model of transformers, behind one face
model       ``LVLM``: a tower, a projector, a language model
bundle      folders of our own, and the small models that ship
small       the tower of petiole/tiny-lvlm
sharded     its language model spread over several processes
vila_u      checkpoints of VILA-U
"""

from petiole.backbones.codebook_lvlm.codebook import CodebookSpec
from petiole.backbones.codebook_lvlm.model import LVLM, PromptTemplate, Turns
from petiole.backbones.codebook_lvlm.tower import Tower, VisionOutput

__all__ = ["LVLM", "CodebookSpec", "PromptTemplate", "Tower", "Turns", "VisionOutput"]
