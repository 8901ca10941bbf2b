"""Data sets that TensorFlow Datasets has prepared, found in its directories."""

from etils import epath


def prepared_builder(dir: epath.PathLike, name: str):
    """The newest prepared version of data set `name`, "<builder>/<config>", or None.

    dir: a TFDS data directory, which holds <builder>/<config>/<version>, or that folder itself.
    """
    import tensorflow_datasets as tfds

    if (epath.Path(dir) / "dataset_info.json").is_file():
        return tfds.builder_from_directory(dir)
    folder = epath.Path(dir) / name
    versions = sorted(f for f in folder.iterdir() if f.is_dir()) if folder.is_dir() else []
    prepared = [f for f in versions if (f / "dataset_info.json").is_file()]
    return tfds.builder_from_directory(str(prepared[-1])) if prepared else None


def require_split(builder, split: str) -> None:
    """Raises ValueError where a prepared data set has no such split."""
    if split not in builder.info.splits:
        raise ValueError(
            f"{builder.data_dir}: expected a split {split!r}, found {sorted(builder.info.splits)}"
        )
