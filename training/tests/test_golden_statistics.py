"""The server's evaluation has the same statistics in TypeScript; `tests/unit/eval/golden-statistics.test.ts` reads the same file."""

import json
from pathlib import Path
from typing import Any

import pytest

from stv_train.statistics import bootstrap, expected_calibration_error, fit_temperature

GOLDEN = Path(__file__).parents[2] / "tests" / "goldens" / "statistics.json"


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOLDEN.read_text())
    return found


def test_calibration_error(golden: dict[str, Any]) -> None:
    scores, truths = zip(*((one["score"], one["right"]) for one in golden["forecasts"]), strict=True)
    assert expected_calibration_error(scores, truths) == pytest.approx(golden["calibration_error"], abs=1e-12)


def test_temperature(golden: dict[str, Any]) -> None:
    scores, truths = zip(*((one["score"], one["right"]) for one in golden["forecasts"]), strict=True)
    assert fit_temperature(scores, truths) == pytest.approx(golden["temperature"], rel=1e-6)


def test_interval(golden: dict[str, Any]) -> None:
    wanted = golden["bootstrap"]
    low, high = bootstrap(wanted["values"], wanted["resamples"], wanted["seed"])
    assert low == pytest.approx(wanted["low"], abs=wanted["tolerance"])
    assert high == pytest.approx(wanted["high"], abs=wanted["tolerance"])
