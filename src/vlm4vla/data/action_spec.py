"""Action specs from files, for data sets that do not carry their own."""

from pathlib import Path

import yaml

from vlm4vla.types import ActionSpec, refuse

_KEYS = "keys dimensions (each: name, unit, kind, frame, low, high), rotation, control_hz, gripper (open, closed)"


def load_spec(file: Path) -> tuple[ActionSpec, tuple[float, float] | None]:
    """An action spec from YAML or JSON, and the numbers that the data set has for an open and a closed gripper.

    Keys: ``dimensions`` (list of name, unit, kind, frame, low, high), ``rotation``, ``control_hz`` and, where the
    data set's gripper is not +1 open and -1 closed, ``gripper: {open: NUMBER, closed: NUMBER}``.
    """
    if not file.is_file():
        raise refuse(f"No file {str(file)!r}", possible="a YAML or JSON file of an action spec", todo="Give its path.")
    try:
        data = yaml.safe_load(file.read_text())
        gripper = data.pop("gripper", None)
        spec = ActionSpec.from_dict(data)
        if gripper is None:
            return spec, None
        opened, closed = float(gripper["open"]), float(gripper["closed"])
        if not opened - closed:
            raise ValueError("the gripper is open and closed at the same number")
        return spec, (opened, closed)
    except (yaml.YAMLError, AttributeError, TypeError, KeyError, ValueError) as error:
        raise refuse(
            f"{file} is not an action spec: {type(error).__name__} {error}",
            possible=_KEYS,
            todo="Mend the file.",
        ) from error
