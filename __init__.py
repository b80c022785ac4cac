"""data2vec 1 and 2.0 in speech, vision and language: pretrain, fine-tune, convert, publish.

``import data2vec`` adds our classes to the ``transformers`` Auto classes and does nothing else.
"""

# Absolute on purpose: pytest also imports this file under the checkout folder's name, where `from . import modeling`
# would make a second copy of every class.
from data2vec import modeling as modeling


__version__ = "0.1.0"
