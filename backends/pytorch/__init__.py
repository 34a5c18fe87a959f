"""PyTorch: a graph as readable, dependency-free source, and as the module which that source makes."""

from .family import family as family
from .gradient import gradients as gradients
from .interpreter import Interpreter as Interpreter
from .interpreter import run as run
from .module import evaluate as evaluate
from .module import export as export
from .module import module as module
from .reference import Reference as Reference
from .source import source as source
