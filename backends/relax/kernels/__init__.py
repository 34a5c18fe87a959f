"""How every operator is computed: importing this package fills the table of rules."""

from . import activation as activation
from . import arithmetic as arithmetic
from . import attention as attention
from . import chains as chains
from . import convolution as convolution
from . import creation as creation
from . import extern as extern
from . import indexing as indexing
from . import layers as layers
from . import layout as layout
from . import linear as linear
from . import normalization as normalization
from . import pooling as pooling
from . import quantized as quantized
from . import recurrent as recurrent
from . import reduction as reduction
from . import resampling as resampling
from . import stochastic as stochastic
