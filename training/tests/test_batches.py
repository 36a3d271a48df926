"""Batches: every document once, within the tokens that were asked for, in few shapes that fit the context."""

from random import Random

import pytest
import torch

from stv_train.batches import batches, collate, padded
from stv_train.config import LENGTH_STEP
from stv_train.documents import Encoded


def rows(count: int, rng: Random, longest: int = 512) -> list[Encoded]:
    return [Encoded([1 + number % 50] * rng.randint(2, longest), 1) for number in range(count)]


def test_lengths_are_rounded_up_and_never_beyond_the_context() -> None:
    for length in range(2, 2049):
        assert length <= padded(length) <= 1.15 * length + 8
        assert padded(length) - 1 <= -(-length // LENGTH_STEP) * LENGTH_STEP
        assert padded(padded(length)) == padded(length)


@pytest.mark.parametrize("rounded", [True, False])
def test_every_document_is_in_one_batch(rounded: bool) -> None:
    documents = rows(600, Random(4))
    groups = batches(documents, 2048, Random(1), rounded)
    assert sorted(map(id, documents)) == sorted(id(row) for group in groups for row in group)
    for group in groups:
        batch = collate(group, torch.device("cpu"), rounded)
        assert rounded or batch.ids.shape[1] == max(len(row.ids) for row in group)
        assert batch.ids.numel() <= 2048 or len(group) == 1
        assert batch.num_tokens == sum(len(row.ids) for row in group)


def test_a_document_beyond_the_tokens_of_a_batch_stands_alone() -> None:
    assert [len(group) for group in batches([Encoded([1] * 300, 1)], 100, Random(1))] == [1]


def test_all_batches_of_a_length_but_the_last_have_one_shape() -> None:
    groups = batches(rows(600, Random(4)), 2048, Random(1))
    shapes = [tuple(collate(group, torch.device("cpu")).ids.shape) for group in groups]
    others = [shape for shape in shapes if shape[0] != 2048 // shape[1]]
    assert len(others) <= 1 and len(set(shapes)) < 40
