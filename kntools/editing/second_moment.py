"""The uncentred second moment of a layer's keys, C = E[k k^T]: which keys an edit must leave alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsIndex, TypeVar
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kntools.arguments import is_one_number, whole, whole_numbers
from kntools.editing.weight_edits import fingerprints
from kntools.engine.text_measurement import TextMeasurement
from kntools.engine.texts import Texts, check_context, neurons_in, passes, pieces, rows_of_texts
from kntools.models import adapter, neuron_layers
from kntools.models.causality import is_masked
from kntools.results.provenance import provenance
from kntools.results.result import Result, checksum
from kntools.tokenisation import Tokenisation

T = TypeVar("T")

#: Added to the diagonal of C, in multiples of its median entry: it decides about directions that no text has shown.
RIDGE = 1e-4

#: An eigenvalue below minus this, where the diagonal is scaled to ones, is not due to rounding.
INDEFINITE = 1e-2

#: Tokens per neuron to measure C on. Of keys that are independent and normal, C^-1 k is then off by 19 % of
#: its length, with 10 tokens per neuron by 39 % (measured in tests/editing/test_second_moment.py).
TOKENS_PER_NEURON = 32


def unprotected(argument: str, layers: Sequence[int], width: int) -> str:
    """What an edit without C costs, and what to give as which `argument`."""
    which = layers[0] if len(layers) == 1 else [*layers]
    return (
        f"the outputs for other keys are not protected (no second moment: C = I), and more answers about "
        f"other subjects change. Measure it once: from kntools.engine.generation import sample_texts; "
        f"C = kn.second_moment(model, {which}, sample_texts(model, {TOKENS_PER_NEURON * width:_})), and give "
        f"{argument}=C; {TOKENS_PER_NEURON} tokens per neuron are recommended"
    )


@dataclass(frozen=True, eq=False, repr=False)
class SecondMoment(Result):
    """C of one layer, with the texts and weights it was measured on.

    ```python
    C = kn.second_moment(model, 8, sample_texts(model, 50_000, seed=0))
    C.matrix, C.count                        # [d_mlp d_mlp], tokens
    u, ridge = C.solve(key)                  # C^-1 key, in float64
    C.save("C8.safetensors"); kn.load("C8.safetensors")
    ```
    """

    matrix: Float[Tensor, "d_mlp d_mlp"]  # mean over tokens, float32
    count: int  # tokens
    texts: int | None  # None: not known
    layer: int
    provenance: dict[str, Any]

    @classmethod
    def from_matrix(
        cls, model: Any, layer: int, matrix: Float[Tensor, "d_mlp d_mlp"], count: int, **settings: Any
    ) -> "SecondMoment":
        """C that was measured elsewhere (the mean of k k^T over `count` tokens), on the weights of `model`.

        ```python
        C = kn.SecondMoment.from_matrix(model, 17, keys.T @ keys / len(keys), len(keys))
        ```

        `settings` are what is known of how it was measured; they are kept with it.

        Raises:
            ValueError: a matrix of another shape, not symmetric, not finite, or indefinite: with a negative
                entry on its diagonal or a negative eigenvalue.
            IndexError: no such layer.
        """
        layer, count = whole("layer", layer), whole("count", count, least=1)
        width, c = neuron_layers.width(model, layer), torch.as_tensor(matrix).detach().cpu().double()
        if c.shape != (width, width):
            raise ValueError(f"the matrix is {tuple(c.shape)}; layer {layer} has {width} neurons: {(width, width)}")
        if not bool(torch.isfinite(c.float()).all()):
            raise ValueError("the matrix holds nan or inf in float32")
        asymmetry = float((c - c.T).abs().max())
        if asymmetry > 1e-3 * float(c.abs().max()):
            raise ValueError(f"the matrix is not symmetric (by up to {asymmetry:.2g}), so it is not a second moment")
        if (lowest := float(c.diagonal().min())) < 0:
            raise ValueError(f"the smallest diagonal entry is {lowest:.2g}; a mean of squares cannot be negative")
        c = (c + c.T) / 2
        if int(torch.linalg.cholesky_ex(_scaled(c) + INDEFINITE * torch.eye(width, dtype=c.dtype)).info):
            raise ValueError(
                "the matrix is not a second moment: it is indefinite, and the mean of (k . x)^2 would be negative for "
                "some x; give the mean of k k^T over tokens"
            )
        made = provenance(model, source="matrix", **settings)
        return cls(c.float(), count, None, layer, made)

    @classmethod
    def from_npz(cls, path: str | Path, model: Any, layer: int) -> "SecondMoment":
        """C from the statistics that ROME, MEMIT and EasyEdit publish and write (`..._mom2_100000.npz`).

        ```python
        file = "transformer.h.17.mlp.c_proj_float32_mom2_100000.npz"
        C = kn.SecondMoment.from_npz(file, model, 17)
        ```

        Such a file holds the sum of k k^T over tokens as `mom2.mom2`, and how many there were as `mom2.count`. It does
        not say of which weights: that it belongs to `model` and `layer` is for you to know.

        Raises:
            FileNotFoundError, ValueError: no such file, another kind of file, or a matrix that does not fit.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"no file {file}")
        try:
            with np.load(file) as content:  # without pickles
                total, count = (torch.from_numpy(np.array(content[f"mom2.{key}"])) for key in ("mom2", "count"))
        except (KeyError, ValueError, TypeError, OSError, BadZipFile) as error:
            raise ValueError(f"{file} is no .npz file with the keys mom2.mom2 and mom2.count: {error}") from error
        if int(count) < 1:
            raise ValueError(f"{file} counts {int(count)} tokens; there must be at least one")
        return cls.from_matrix(model, layer, total.double() / int(count), int(count), file=file.name)

    def check(self, model: Any, layer: int) -> None:
        """Check that it is C of this layer of this model, with or without the edits applied now.

        Raises:
            ValueError: it was measured on another layer, or on other weights.
        """
        if layer != self.layer:
            raise ValueError(
                f"this second moment is that of layer {self.layer}, the edit is in layer {layer}; "
                f"measure kn.second_moment(model, {layer}, texts)"
            )
        found = fingerprints(model)
        if self.provenance["fingerprint"] not in found:
            raise ValueError(
                f"this second moment was measured on other weights ({self.provenance['model']}, fingerprint "
                f"{self.provenance['fingerprint']}) than those of this {adapter.model_name(model)} ({found[0]})"
            )

    def solve(self, keys: Float[Tensor, "... d_mlp"]) -> tuple[Float[Tensor, "... d_mlp"], float]:
        """`(C + r I)^-1 k` of one key or of several, and r: `RIDGE` times the median of C's diagonal. In float64.

        Raises:
            ValueError: C is singular: measured on fewer tokens than there are neurons, or not positive.
        """
        if not bool(torch.isfinite(self.matrix).all()):
            raise ValueError("this second moment holds nan or inf; measure it again, with the model in float32")
        width, ridge = len(self.matrix), self._ridge
        tokens = f"it was measured on {self.count:,} tokens, and there are {width:,} neurons"
        if self.count < width or ridge <= 0:
            raise ValueError(
                f"this second moment is singular: {tokens}. Measure it on more text "
                f"({TOKENS_PER_NEURON * width:,} tokens are recommended)"
            )
        factor = self._kept(_factor)
        if factor is None:
            raise ValueError(f"this second moment is singular: {tokens}, but most directions never occurred")
        flat = keys.detach().cpu().double().reshape(-1, width)
        solved = torch.cholesky_solve(flat.T, factor).T.reshape(keys.shape)
        return solved.to(keys), ridge

    def project(self, keys: Float[Tensor, "... d_mlp"], threshold: float) -> Float[Tensor, "... d_mlp"]:
        """The part of the keys in the null space of C: along eigenvectors whose eigenvalues are below `threshold`.

        Raises:
            ValueError: there is none.
        """
        values, vectors = self._kept(_eigen)
        null = vectors[:, values < threshold]
        if not null.shape[1]:
            raise ValueError(
                f"no eigenvalue of C (layer {self.layer}) is below threshold={threshold}; the smallest is "
                f"{float(values[0]):.3g}: give a threshold above it"
            )
        return (keys.detach().cpu().double() @ null @ null.T).to(keys)

    @property
    def _ridge(self) -> float:
        return RIDGE * float(self.matrix.diagonal().double().median())

    @cached_property
    def _made(self) -> dict[Any, tuple[str, Any]]:
        return {}

    def _kept(self, make: "Callable[[SecondMoment], T]") -> T:
        """`make(self)`, kept for the next edit as long as nothing is written to the matrix."""
        now = self.identity()
        if self._made.get(make, ("", None))[0] != now:
            self._made[make] = now, make(self)
        return self._made[make][1]

    def title(self) -> str:
        texts = "" if self.texts is None else f" of {self.texts:,} texts"
        return f"L{self.layer}, {self.count:,} tokens{texts}"

    def identity(self) -> str:
        """The title and a digest of layer, count and matrix: what runs and edits write of the C that they used."""
        return f"{self.title()} #{checksum(f'{self.layer} {self.count}', {'matrix': self.matrix.cpu()})[:16]}"

    def describe(self) -> str:
        return f"Second moment of the inputs of W_out, {self.title()} ({self.provenance['model']})"

    def to_frame(self) -> pd.DataFrame:
        """One row: `layer, neurons, tokens, recommended, texts, median of the diagonal`."""
        row = {
            "layer": self.layer,
            "neurons": len(self.matrix),
            "tokens": self.count,
            "recommended": TOKENS_PER_NEURON * len(self.matrix),
            "texts": self.texts,
            "median of the diagonal": float(self.matrix.diagonal().median()),
        }
        return pd.DataFrame([row])


def _eigen(c: SecondMoment) -> tuple[Tensor, Tensor]:
    return tuple(torch.linalg.eigh(c.matrix.double()))


def _factor(c: SecondMoment) -> Tensor | None:
    """The Cholesky factor of C + r I; `None` if there is none, or if the text has shown few directions at all."""
    matrix = c.matrix.double()
    factor, wrong = torch.linalg.cholesky_ex(matrix + c._ridge * torch.eye(len(matrix), dtype=matrix.dtype))
    if int(wrong):
        return None
    rank = int((torch.linalg.eigvalsh(_scaled(matrix)) > 1e-6).sum())  # to the precision of float32
    return factor if rank >= len(matrix) // 2 else None


def _scaled(c: Float[Tensor, "d_mlp d_mlp"]) -> Float[Tensor, "d_mlp d_mlp"]:
    """With ones on the diagonal: neurons of very different size count alike."""
    scale = c.diagonal().clamp(min=1e-30).rsqrt()
    return scale[:, None] * c * scale


def second_moment(
    model: Any,
    layer: SupportsIndex | Sequence[SupportsIndex],
    texts: Texts,
    *,
    tokens: int | None = None,
    context: int | None = None,
    dtype: torch.dtype = torch.float64,
    checkpoint: str | Path | None = None,
    every: int = 10_000,
) -> Any:
    """C = E[k k^T] of the inputs of `W_out`, over all tokens of many texts, including BOS.

    ```python
    C = kn.second_moment(model, 8, sample_texts(model, 50_000, seed=0))
    moments = kn.second_moment(model, [6, 8, 10], load_dataset("wikitext", ..., streaming=True), tokens=100_000)
    ```

    Arguments:
        layer: one layer, or several that are measured in the same pass and come back by layer.
        texts: strings, or rows with a `"text"` (a `datasets` stream); or a `Path`: a file with one text per line. Read
            one after the other, never all at once.
        tokens: stop after about so many; `None` reads to the end. Recommended: `TOKENS_PER_NEURON` (32) times as many
            as the layer has neurons; fewer than neurons are an error in an edit.
        context: longer texts are cut into pieces of so many tokens; `None` is the model's context, at most 512.
        dtype: of the sums. Each pass is summed in float32 at least.
        checkpoint: a file that the sums are written to every `every` tokens. Called again with the same texts, the
            function resumes there, with the same result.

    Raises:
        ValueError: no text; a checkpoint of another model, other settings, other texts or more tokens; a layer without
            neurons.
        IndexError: no such layer.
        FloatingPointError: keys that are nan or inf.
    """
    wanted = sorted({adapter.check_layer(model, number) for number in whole_numbers("layer", layer)})
    if not wanted:
        raise ValueError("no layers given; name one, or several")
    every, tokens = whole("every", every, least=1), None if tokens is None else whole("tokens", tokens, least=1)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype={dtype}; sums need torch.float32 or torch.float64")
    sums = _Sums(model, wanted, context=context, dtype=dtype, path=checkpoint)
    sums.read(texts, rows_of_texts(), every=every, most=tokens)
    found = {
        number: SecondMoment((total / sums.tokens).float().cpu(), sums.tokens, sums.texts, number, sums.about)
        for number, total in sums.totals.items()
    }
    return found[wanted[0]] if is_one_number(layer) else found


class _Sums(TextMeasurement):
    def __init__(
        self, model: Any, layers: list[int], *, context: int | None, dtype: torch.dtype, path: str | Path | None
    ) -> None:
        self.model, self.context = model, check_context(model, context)
        widths, device = {n: neuron_layers.width(model, n) for n in layers}, adapter.device_of(model)
        self.totals = {n: torch.zeros(width, width, dtype=dtype, device=device) for n, width in widths.items()}
        about = provenance(
            model,
            layers=layers,
            context=self.context,
            prepend_bos=bool(Tokenisation(model).before) and not is_masked(model),
            dtype=str(dtype).removeprefix("torch."),
            site="mlp.hook_post",
        )
        super().__init__(path, about)

    def add(self, texts: list[tuple[int, str]]) -> None:
        for batch in passes(pieces(self.model, texts, self.context)):
            for layer, keys in neurons_in(self.model, batch, dict.fromkeys(self.totals, slice(None))).items():
                flat = keys.flatten(0, 1)
                self.totals[layer] += (flat.T @ flat).to(self.totals[layer])
            self.tokens += sum(len(piece.ids) for piece in batch)

    def state(self) -> dict[str, Any]:
        return {str(layer): total for layer, total in self.totals.items()}

    def restore(self, state: dict[str, Any]) -> None:
        for layer, total in self.totals.items():
            total.copy_(state[str(layer)])
