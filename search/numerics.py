"""The numerics of a Program, as the wire names them and as the trainer does; and which of them can be lowered."""

from device_agent.contracts import Blame, FulcrumError, MatrixPrecision, Quantisation
from trainer.precision import EMBEDDING, HEAD, Precision, Scheme


class CannotBeLowered(FulcrumError):
    """Numerics for which the phone's kernels have no operator."""

    blame, slug = Blame.USER, "cannot-be-lowered"


def scheme_of(quantisation: Quantisation) -> Scheme:
    """What a Program of these numerics rounds."""
    return Scheme(
        weights=_ours(quantisation.weights),
        embedding=_ours(quantisation.embedding),
        head=_ours(quantisation.head),
        activations=quantisation.activation_bits == 8,
        overrides={role: _ours(precision) for role, precision in quantisation.matrices.items()},
    )


def quantisation_of(scheme: Scheme) -> Quantisation:
    """How the wire names a scheme."""
    weights, embedding, head = scheme.weights, scheme.embedding, scheme.head
    exceptions = {
        role: precision
        for role, precision in ((EMBEDDING, embedding), (HEAD, head))
        if precision.bits == 4 and precision.group_size != (weights.group_size or 32)
    }
    if weights.bits == 32 and embedding.bits != 32:
        exceptions[EMBEDDING] = embedding
    return Quantisation(
        weight_bits=weights.bits,
        group_size=weights.group_size or 32,
        activation_bits=8 if scheme.activations else 32,
        embedding_bits=embedding.bits,
        head_bits=None if head.bits == weights.bits else head.bits,
        matrices={role: _theirs(precision) for role, precision in {**exceptions, **scheme.overrides}.items()},
    )


def refuse_unlowerable(quantisation: Quantisation) -> None:
    """Raise CannotBeLowered where a linear has integer weights and activations in float32.

    XNNPACK in ExecuTorch 1.4.1 takes such a linear into its delegate without complaint, and computes something else:
    for random 96 x 128 weights, outputs of up to 32 were off by up to 77 (4 bits in groups of 32) and 1,500 (8 bits).
    """
    linears = [quantisation.weights, quantisation.head]
    linears += [precision for role, precision in quantisation.matrices.items() if role != EMBEDDING]
    if quantisation.activation_bits == 32 and any(precision.bits != 32 for precision in linears):
        raise CannotBeLowered(
            "The phone's kernels multiply 4- and 8-bit weights with 8-bit activations only.",
            advice="Say activation_bits 8, or weight_bits 32.",
        )


def _ours(precision: MatrixPrecision) -> Precision:
    return Precision(bits=precision.bits, group_size=precision.group_size)


def _theirs(precision: Precision) -> MatrixPrecision:
    return MatrixPrecision(bits=precision.bits, group_size=precision.group_size)
