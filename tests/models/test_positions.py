"""What `position_ids` and `attention_mask` of a forward call say: packed rows, and masks of other shapes."""

import pytest
import torch

from cambrian_gaze.models.positions import packed_samples


def packed(*lengths: int) -> torch.Tensor:
    return torch.cat([torch.arange(length) for length in lengths])[None]


def test_a_sample_begins_where_positions_do():
    row = torch.zeros(2, 7, 4)
    assert packed_samples(packed(3, 4), row).tolist() == [[0, 0, 0, 1, 1, 1, 1]] * 2
    both = torch.cat([packed(2, 1, 4), packed(7) + 5])
    assert packed_samples(both, row).tolist() == [[0, 0, 1, 2, 2, 2, 2], [0] * 7]
    for positions in (None, packed(7), packed(7) + 3, packed(7)[None]):
        assert packed_samples(positions, row) is None


def test_packed_rows_answer_as_their_samples_do(model, processor):
    """As collators without padding write them, pictures included."""
    from transformers import DataCollatorWithFlattening

    from tests.models.conftest import ask, noise

    texts = [processor.tokenizer.encode(text) for text in ("hello there my friend", "count one two")]
    flat = DataCollatorWithFlattening(return_tensors="pt")([{"input_ids": ids} for ids in texts])
    assert "attention_mask" not in flat
    apart = torch.cat([model(input_ids=torch.tensor([ids])).logits for ids in texts], 1)
    together = model(input_ids=flat["input_ids"], position_ids=flat["position_ids"])
    assert torch.allclose(together.logits, apart, atol=1e-3)
    rows = [processor.apply_chat_template(ask(noise(i)), tokenize=True) for i in range(2)]
    apart = torch.cat([model(**row).logits for row in rows], 1)
    whole = {name: torch.cat([row[name] for row in rows], 1) for name in ("input_ids", "mm_token_type_ids")}
    whole |= {name: torch.cat([row[name] for row in rows]) for name in ("pixel_values", "grid_thw")}
    positions = packed(*[row["input_ids"].shape[1] for row in rows])
    assert torch.allclose(model(**whole, position_ids=positions).logits, apart, atol=1e-3)
    # A mask says that the row is one, to transformers' own models as to ours.
    masked = model(**whole, position_ids=positions, attention_mask=torch.ones_like(whole["input_ids"]))
    assert not torch.allclose(masked.logits, apart, atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 1, 5, 5), (2, 4), (2, 9), (1, 5)])
def test_a_mask_of_another_shape_is_named(model, shape):
    ids = torch.full((2, 5), 7)
    with pytest.raises(ValueError, match=r"attention_mask must be \[2, 5\]"):
        model(input_ids=ids, attention_mask=torch.ones(shape))
    for mask in (torch.ones(2, 5), torch.ones(2, 5, dtype=torch.bool)):
        assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, model(input_ids=ids).logits)
