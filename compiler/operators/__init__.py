"""Every operator family: importing this package fills `OPERATORS`, `LAYERS` and `SAMPLES`."""

from . import attention as attention
from . import convolution as convolution
from . import linear as linear
from . import normalization as normalization
from . import pooling as pooling
from . import recurrent as recurrent
from . import stochastic as stochastic
