import json

import numpy as np
from tensorboardX.proto.event_pb2 import Event

from vos_jax.train.logs import Logger


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
