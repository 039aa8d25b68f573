"""x + y, x @ w, x.reshape(…): the ops as operators and methods of Tensor, so that equations look like equations."""

from minidat.autograd.engine import Tensor
from minidat.ops import elementwise, reduce
from minidat.ops.matmul import matmul
from minidat.ops.movement import getitem, reshape, transpose


def install() -> None:
    """Give Tensor its operators. The engine knows no op, so this is done when `minidat.ops` is imported."""
    methods = {
        "__neg__": elementwise.negative,
        "__add__": elementwise.add,
        "__radd__": lambda x, y: elementwise.add(y, x),
        "__sub__": elementwise.subtract,
        "__rsub__": lambda x, y: elementwise.subtract(y, x),
        "__mul__": elementwise.multiply,
        "__rmul__": lambda x, y: elementwise.multiply(y, x),
        "__truediv__": elementwise.divide,
        "__rtruediv__": lambda x, y: elementwise.divide(y, x),
        "__pow__": lambda x, n: elementwise.power(x, exponent=n),
        "__matmul__": matmul,
        "__rmatmul__": lambda x, y: matmul(y, x),
        "__getitem__": lambda x, index: getitem(x, index=index),
        "reshape": lambda x, *shape: reshape(x, shape=shape),
        "transpose": lambda x, *axes: transpose(x, axes=axes),
        "sum": lambda x, axis=None, keepdims=False: reduce.sum(x, axis=axis, keepdims=keepdims),
        "mean": lambda x, axis=None, keepdims=False: reduce.mean(x, axis=axis, keepdims=keepdims),
        "max": lambda x, axis=None, keepdims=False: reduce.max(x, axis=axis, keepdims=keepdims),
    }
    for name, method in methods.items():
        setattr(Tensor, name, _method(method))


def _method(f):
    """A plain function, since an Op is no descriptor and would not bind to the Tensor."""
    return lambda self, *args, **options: f(self, *args, **options)
