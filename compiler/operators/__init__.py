"""Every operator family: importing this package fills `OPERATORS`, `LAYERS` and `SAMPLES`."""

from . import activation as activation
from . import arithmetic as arithmetic
from . import attention as attention
from . import convolution as convolution
from . import creation as creation
from . import extern as extern
from . import indexing as indexing
from . import layout as layout
from . import linear as linear
from . import normalization as normalization
from . import pooling as pooling
from . import quantization as quantization
from . import rearrange as rearrange
from . import recurrent as recurrent
from . import reduction as reduction
from . import resampling as resampling
from . import stochastic as stochastic
