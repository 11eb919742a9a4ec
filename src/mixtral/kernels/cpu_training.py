"""The training kernels of ``libmixtral_cpu.so``: attention and output head with their gradients.

float32 alone, on PyTorch's number of threads. These are calls, not autograd functions:
``kernels/packed_attention.py`` and ``train/losses.py`` make those of them. Letters as in
``kernels/reference.py``; layouts in csrc/training.h.
"""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mixtral.kernels.cpu.library import load_library
from mixtral.kernels.cpu.signatures import bind

_SIZE, _POINTER = ctypes.c_int64, ctypes.c_void_p


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, _SIZE) for name in ("num_sequences", "heads", "kv_heads", "head_dim", "window")),
        ("starts", ctypes.POINTER(_SIZE)),  # keeps what it is given alive
        *((name, _POINTER) for name in ("query", "key", "value", "out", "log_sums")),
        *((name, _POINTER) for name in ("out_grad", "query_grad", "key_grad", "value_grad")),
        ("workspace", _POINTER),
        ("workspace_floats", _SIZE),
    )


class _HeadLoss(ctypes.Structure):
    _fields_ = (
        *((name, _SIZE) for name in ("rows", "hidden", "vocab")),
        ("grad_scale", ctypes.c_float),
        *((name, _POINTER) for name in ("states", "weight", "targets", "losses")),
        *((name, _POINTER) for name in ("states_grad", "weight_grad", "workspace")),
        ("workspace_floats", _SIZE),
    )


class TrainingKernels:
    """Attention and output head of a training step; get them from ``load_training_kernels``.

    Args:
        path: The shared library.

    Raises:
        OSError: The file is no library with our C interface.
    """

    def __init__(self, path: Path) -> None:
        self._library = bind(path)

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, starts: Sequence[int], window: int | None
    ) -> tuple[Tensor, Tensor]:
        """Attend inside each sequence, as ``reference.attention`` does.

        Args:
            query: [T, H, K], float32 on the CPU, contiguous.
            key, value: [T, G, K], likewise.
            starts: Sequence boundaries, S + 1 offsets from 0 to T.
            window: Positions that a query sees, itself included; None sees all before it.

        Returns:
            The output, [T, H, K], and what the backward pass needs of it, [T, H], both float32.
        """
        out, log_sums = torch.empty_like(query), query.new_empty(query.shape[:2])
        call = self._attention_call(query, key, value, starts, window)
        call.out, call.log_sums = out.data_ptr(), log_sums.data_ptr()
        self._attend(call, is_backward=False)
        return out, log_sums

    def attention_backward(
        self,
        out_grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        log_sums: Tensor,
        starts: Sequence[int],
        window: int | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of query, key and value, from that of ``attention``'s output.

        Args:
            out_grad: [T, H, K], float32, contiguous.
            query, key, value, out, log_sums: What ``attention`` took and returned.
            starts, window: As for ``attention``.
        """
        grads = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        call = self._attention_call(query, key, value, starts, window)
        call.out, call.log_sums = out.data_ptr(), log_sums.data_ptr()
        call.out_grad = out_grad.data_ptr()
        call.query_grad, call.key_grad, call.value_grad = (grad.data_ptr() for grad in grads)
        self._attend(call, is_backward=True)
        return grads

    def head_loss(
        self,
        states: Tensor,
        weight: Tensor,
        targets: Tensor,
        *,
        grad_scale: float,
        states_grad: Tensor | None,
        weight_grad: Tensor | None,
    ) -> Tensor:
        """Return the loss of each row, and fill in the gradients of their sum times a scale.

        Args:
            states: [R, D], float32 on the CPU, contiguous, R >= 1.
            weight: Output head, [V, D], likewise.
            targets: [R], int64, from 0 to V - 1.
            grad_scale: What the gradients are multiplied with.
            states_grad: [R, D], float32, contiguous, written; None where nobody needs it.
            weight_grad: [V, D], likewise.

        Returns:
            -log softmax(weight states)[target], [R], float32.
        """
        losses = states.new_empty(len(states))
        call = _HeadLoss(
            rows=states.shape[0],
            hidden=states.shape[1],
            vocab=weight.shape[0],
            grad_scale=grad_scale,
            states=states.data_ptr(),
            weight=weight.data_ptr(),
            targets=targets.data_ptr(),
            losses=losses.data_ptr(),
            states_grad=None if states_grad is None else states_grad.data_ptr(),
            weight_grad=None if weight_grad is None else weight_grad.data_ptr(),
        )
        self._library.mixtral_set_threads(torch.get_num_threads())
        while needed := self._library.mixtral_head_loss(ctypes.byref(call)):
            workspace = states.new_empty(needed)
            call.workspace, call.workspace_floats = workspace.data_ptr(), needed
        return losses

    def _attention_call(
        self, query: Tensor, key: Tensor, value: Tensor, starts: Sequence[int], window: int | None
    ) -> _Attention:
        return _Attention(
            num_sequences=len(starts) - 1,
            heads=query.shape[1],
            kv_heads=key.shape[1],
            head_dim=query.shape[2],
            window=window or 0,
            starts=(_SIZE * len(starts))(*starts),
            query=query.data_ptr(),
            key=key.data_ptr(),
            value=value.data_ptr(),
        )

    def _attend(self, call: _Attention, *, is_backward: bool) -> None:
        self._library.mixtral_set_threads(torch.get_num_threads())
        while needed := self._library.mixtral_packed_attention(
            ctypes.byref(call), int(is_backward)
        ):
            # Not PyTorch's default type and device, which anyone may set.
            workspace = torch.empty(needed, dtype=torch.float32, device="cpu")
            call.workspace, call.workspace_floats = workspace.data_ptr(), needed


def fits_kernels(*tensors: Tensor) -> bool:
    """Return whether all are plain float32 tensors on the CPU, as the kernels want them.

    Subclasses are not: a distributed or a packed tensor has no rows at its address.
    """
    plain = (Tensor, torch.nn.Parameter)
    return all(
        type(t) in plain and t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors
    )


@functools.cache
def load_training_kernels() -> TrainingKernels | None:
    """Return the kernels, loaded once per process; None where the library is not there.

    Raises:
        ConfigError: ``MIXTRAL_CPU_LEVEL`` names a level that cannot be used here.
    """
    library = load_library()
    return None if library is None else TrainingKernels(library.path)
