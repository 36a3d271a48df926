import math
from random import Random

import pytest

from stv_train.statistics import bootstrap, expected_calibration_error, fit_temperature, log_loss, logit, sigmoid


def test_bootstrap_covers_the_mean_at_its_rate() -> None:
    rng = Random(1)
    covered = 0
    for number in range(200):
        values = [float(rng.random() < 0.3) for _ in range(100)]
        low, high = bootstrap(values, 300, number)
        covered += low <= 0.3 <= high
    assert 178 <= covered <= 199  # 95 % of 200 is 190; bounds lie four deviations off
    assert bootstrap([]) == (0.0, 0.0)
    assert bootstrap([1.0] * 5) == (1.0, 1.0)


def test_calibration_error_by_hand() -> None:
    assert expected_calibration_error([0.9, 0.9, 0.1, 0.1], [True, False, False, False]) == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)
    assert expected_calibration_error([1.0, 0.0], [True, False]) == 0


def test_temperature_undoes_overconfidence() -> None:
    rng = Random(2)
    honest = [rng.random() for _ in range(4000)]
    truths = [rng.random() < p for p in honest]
    loud = [sigmoid(3 * logit(p)) for p in honest]
    temperature = fit_temperature(loud, truths)
    assert temperature == pytest.approx(3, rel=0.1)
    assert log_loss(loud, truths, temperature) < log_loss(loud, truths, 1.0)
    slow = -sum(math.log(p if t else 1 - p) for p, t in zip(honest, truths, strict=True)) / 4000
    assert log_loss(honest, truths, 1.0) == pytest.approx(slow)
