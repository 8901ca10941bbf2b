import json

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from vos_jax.train import logs
from vos_jax.train.logs import Logger, read_log


def lines(folder):
    return [json.loads(line) for line in (folder / "logs/metrics.jsonl").read_text().splitlines()]


def tensorboard_scalars(folder):
    """(tag, step, value) of every record: length (8 bytes), crc (4), an Event, crc (4)."""
    found = []
    for path in sorted((folder / "logs").glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            data = data[16 + size :]
    return found


def test_lines_are_on_disk_at_once_and_events_hold_the_same(tmp_path):
    logger = Logger(tmp_path)
    logger.scalars("train", 5, {"loss": np.float32(0.25), "lr": 1})
    (line,) = lines(tmp_path)
    assert line.pop("time") > 0
    assert line == {"kind": "train", "step": 5, "loss": 0.25, "lr": 1.0}
    logger.close()
    assert tensorboard_scalars(tmp_path) == [("train/loss", 5, 0.25), ("train/lr", 5, 1.0)]


def test_a_resumed_log_keeps_the_old_lines_and_marks_the_seam(tmp_path):
    for step in (1, 2):
        logger = Logger(tmp_path, tensorboard=False)
        if step == 2:
            logger.resumed(1)
        logger.scalars("train", step, {"loss": step})
        logger.close()
    assert [line.get("step", line.get("resumed_from")) for line in lines(tmp_path)] == [1, 1, 2]
    assert "resumed_from" in lines(tmp_path)[1]


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    logger = Logger(tmp_path)
    logger.resumed(3)
    logger.scalars("train", 4, {"loss": 1.0})
    logger.close()
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_appended_each_line_writes_one_part_and_reading_joins_them(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(logs, "is_remote", lambda path: True)
    monkeypatch.setattr(logs, "LINES", 3)
    for first, count in ((0, 4), (4, 1)):
        logger = Logger(tmp_path, tensorboard=False)
        for step in range(first, first + count):
            logger.scalars("train", step, {"loss": 1.0})
            assert [line["step"] for line in read_log(tmp_path)] == list(range(step + 1))
        logger.close()
    sizes = [len(p.read_text().splitlines()) for p in sorted((tmp_path / "logs").iterdir())]
    assert sizes == [3, 1, 1]


def test_reading_leaves_out_an_unfinished_last_line_and_names_a_damaged_one(tmp_path):
    logger = Logger(tmp_path, tensorboard=False)
    logger.scalars("train", 1, {"loss": 1.0})
    logger.close()
    path = tmp_path / "logs/metrics.jsonl"
    path.write_text(path.read_text() + '{"kind": "tr')
    assert [line["step"] for line in read_log(tmp_path)] == [1]
    path.write_text(path.read_text() + "\n{}\n")
    with pytest.raises(ValueError, match="metrics.jsonl, line 2: expected JSON"):
        read_log(tmp_path)
    with pytest.raises(FileNotFoundError, match="has no log: expected logs/metrics.jsonl"):
        read_log(tmp_path / "elsewhere")
