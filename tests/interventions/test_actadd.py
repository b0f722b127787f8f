"""ActAdd: one vector per leading position, during the prompt only, from texts of equal token length."""

from typing import Any

import pytest
import torch

from tests.interventions.plain import blocks_of, plain_ids, plain_model
from tests.tiny import tiny_model
from workbench.activations import capture
from workbench.interventions import ActAdd, Scope, SteeringError, steer
from workbench.records import NotApplicable, Pair, Site

PAIR = Pair("the court shall sum", "it was a river")


def block_input(family: str, text: str, layer: int) -> torch.Tensor:
    """Block input of the plain model, [pos, d_model], by a hook of PyTorch."""
    seen = []
    model = plain_model(family)

    def note(module: Any, inputs: Any, options: Any) -> None:
        seen.append(inputs[0] if inputs else options["hidden_states"])

    blocks_of(model)[layer].register_forward_pre_hook(note, with_kwargs=True)
    model(plain_ids(text))
    return seen[0][0]


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_vectors_are_the_difference_of_block_inputs(family: str) -> None:
    steering = ActAdd.fit(tiny_model(family), [PAIR], layer=1)
    expected = block_input(family, PAIR.positive, 1) - block_input(family, PAIR.negative, 1)
    torch.testing.assert_close(steering.vectors, expected, atol=1e-5, rtol=1e-4)
    # Both texts begin with BOS.
    torch.testing.assert_close(steering.vectors[0], torch.zeros(16))
    assert steering.vectors[1:].abs().amax(dim=1).min() > 1e-2


def test_shorter_text_is_continued_with_the_padding_token() -> None:
    model = tiny_model("llama")
    padded = ActAdd.fit(model, [Pair("the court shall sum", "it was")], layer=2, padding=".")
    written_out = ActAdd.fit(model, [Pair("the court shall sum", "it was . .")], layer=2)
    torch.testing.assert_close(padded.vectors, written_out.vectors)


def test_several_pairs_are_averaged_by_position() -> None:
    model, other = tiny_model("llama"), Pair("x is y .", "the cell is a")
    both, first, second = (ActAdd.fit(model, pairs, layer=1).vectors for pairs in ([PAIR, other], [PAIR], [other]))
    torch.testing.assert_close(both, (first + second) / 2)


def test_each_position_gets_its_own_vector_and_later_ones_none() -> None:
    model = tiny_model("llama")
    steering = ActAdd.fit(model, [PAIR], layer=1)
    site = Site("resid_pre", 1)
    tokens = model.tokenize(["it is the sum of the cell and x", "y was the river and it was x . . ."], side="left")
    before = capture(model, tokens, [site])[0]
    with steer(model, steering, 3.0, "prompt"):
        change = capture(model, tokens, [site])[0] - before
    n_vectors = len(steering.vectors)
    for row, positions in zip(change, tokens.positions, strict=True):
        leading = (positions >= 0) & (positions < n_vectors)
        torch.testing.assert_close(row[leading], 3.0 * steering.vectors, atol=1e-5, rtol=1e-4)
        assert not row[~leading].any()


def test_prompt_scope_spares_generated_tokens_of_a_short_prompt() -> None:
    model = tiny_model("llama")
    steering = ActAdd.fit(model, [PAIR], layer=1)
    tokens = model.tokenize(["it"], side="left")
    edited = {}
    for scope in ("prompt", "all"):
        seen: list[torch.Tensor] = []
        with (
            steer(model, steering, 1.0, scope),
            model.hooked({Site("resid_pre", 1): lambda values, *_, seen=seen: seen.append(values.clone())}),
        ):
            steered = model.generate(tokens, max_new_tokens=2)
        # The same tokens, not steered, for comparison with what the hook saw of the first generated one.
        with steer(model, steering, 1.0, Scope("all", exclude=(2, 3, 4))):
            whole = model.pad([[*tokens.ids[0].tolist(), *steered[0]]])
            spared = capture(model, whole, [Site("resid_pre", 1)])[0]
        edited[scope] = not torch.allclose(seen[1][0, 0], spared[0, 2], atol=1e-4)
    assert edited == {"prompt": False, "all": True}
    assert ActAdd.published_scope == Scope("prompt")


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda model: ActAdd.fit(model, [], layer=1), "no pairs"),
        (lambda model: ActAdd.fit(model, [Pair("the court", "it")], layer=1), "2 to 3 tokens and the padding ' ' is 0"),
        (lambda model: ActAdd.fit(model, [Pair("the court", "it")], layer=1, padding="a ."), "is 2 tokens"),
        (lambda model: ActAdd(torch.zeros(0, 16), 1), "no vectors"),
        (lambda model: ActAdd(torch.full((2, 16), torch.nan), 1), "NaN"),
        (lambda model: steer(model, ActAdd(torch.ones(2, 17), 1)), "does not fit"),
    ],
)
def test_mistakes_are_named(mistake: Any, message: str) -> None:
    with pytest.raises((SteeringError, NotApplicable), match=message):
        mistake(tiny_model("llama"))
