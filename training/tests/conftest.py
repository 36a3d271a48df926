import pytest
import torch

from stv_train.model import Llama, ModelConfig
from stv_train.tokenizer import PackTokenizer


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> PackTokenizer:
    return PackTokenizer()


@pytest.fixture()
def tiny(tokenizer: PackTokenizer) -> Llama:
    config = ModelConfig(
        tokenizer.vocab_size, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, intermediate_size=96, max_length=256
    )
    return Llama(config, seed=3)
