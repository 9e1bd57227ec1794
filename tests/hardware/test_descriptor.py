import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from hardware.descriptor import DescriptorError, parse, read, read_toml, unknown
from hardware.types import STRICT, Count, Positive, Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    __pydantic_config__: ClassVar = STRICT

    radius_m: Positive
    spokes: Count = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Bicycle:
    __pydantic_config__: ClassVar = STRICT

    name: str
    kind: Literal["road", "city"]
    mass_kg: Positive
    efficiency: Share
    gears: Count
    electric: bool
    prices: Mapping[str, Positive]
    wheels: tuple[Wheel, ...]

    def __post_init__(self) -> None:
        if self.electric and self.kind == "road":
            raise ValueError("kind: a road bicycle has no motor\nelectric: should be false for a road bicycle")


GOOD = """
name = "roadster"
kind = "city"
mass_kg = 12
efficiency = 0.95
gears = 7
electric = false
prices = { euro = 500.0 }
[[wheels]]
radius_m = 0.35
[[wheels]]
radius_m = 0.35
spokes = 28
"""

# What stands in the file instead, the key that is to blame, and a part of what the message says of it.
BAD_VALUES = [
    ("mass_kg = 12", 'mass_kg = "12"', "mass_kg", "'12': should be a valid number"),
    ("mass_kg = 12", "mass_kg = true", "mass_kg", "True: should be a valid number"),
    ("mass_kg = 12", "mass_kg = 0", "mass_kg", "0: should be greater than 0"),
    ("mass_kg = 12", "mass_kg = -1.5", "mass_kg", "-1.5: should be greater than 0"),
    ("mass_kg = 12", "mass_kg = nan", "mass_kg", "nan: should be a finite number"),
    ("mass_kg = 12", "mass_kg = inf", "mass_kg", "inf: should be a finite number"),
    ("mass_kg = 12", f"mass_kg = 1{'0' * 400}", "mass_kg", "a very long number: should be"),
    ("mass_kg = 12", "mass_kg = [12]", "mass_kg", "[12]: should be a valid number"),
    ("mass_kg = 12", "mass_kg = 2024-01-01", "mass_kg", "should be a valid number"),
    ("mass_kg = 12", "", "mass_kg", "missing; should be a number greater than 0"),
    (
        "mass_kg = 12",
        "mass = 12",
        "mass",
        "no key 'mass'; nearest: mass_kg; known: efficiency, electric, gears",
    ),
    ("efficiency = 0.95", "efficiency = 95", "efficiency", "95: should be less than or equal to 1"),
    ("efficiency = 0.95", "", "efficiency", "should be a number greater than 0 and at most 1"),
    ("gears = 7", "gears = 7.0", "gears", "7.0: should be a valid integer"),
    ("gears = 7", 'gears = "7"', "gears", "should be a valid integer"),
    ("gears = 7", "gears = true", "gears", "should be a valid integer"),
    ("electric = false", "electric = 0", "electric", "should be a valid boolean"),
    ("electric = false", "", "electric", "missing; should be true or false"),
    ('name = "roadster"', "name = 3", "name", "should be a valid string"),
    ('name = "roadster"', "", "name", "missing; should be a text"),
    ('kind = "city"', 'kind = "racing"', "kind", "should be 'road' or 'city'"),
    ('kind = "city"', "", "kind", "missing; should be one of 'road', 'city'"),
    ("prices = { euro = 500.0 }", "prices = { euro = -1 }", "prices.euro", "should be greater than 0"),
    ("prices = { euro = 500.0 }", "prices = 500", "prices", "500: should be"),
    ("prices = { euro = 500.0 }", "", "prices", "missing; should be a table"),
    ("spokes = 28", "spoke = 28", "wheels.1.spoke", "nearest: spokes; known: radius_m, spokes"),
    ("radius_m = 0.35\nspokes", "spokes", "wheels.1.radius_m", "missing; should be a number greater than 0"),
    ("radius_m = 0.35\nspokes", "radius_m = nan\nspokes", "wheels.1.radius_m", "should be a finite number"),
]


def in_file(folder: Path, text: str | bytes) -> Path:
    path = folder / "bicycle.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def faults_of(path: Path) -> tuple[str, ...]:
    with pytest.raises(DescriptorError) as caught:
        read(path, Bicycle)
    assert caught.value.path == str(path)
    assert all(line.startswith(f"{path}: ") for line in str(caught.value).splitlines())
    return caught.value.faults


def test_a_good_file_becomes_its_dataclass(tmp_path: Path):
    bicycle = read(in_file(tmp_path, GOOD), Bicycle)
    assert isinstance(bicycle, Bicycle)
    assert bicycle.wheels == (Wheel(radius_m=0.35), Wheel(radius_m=0.35, spokes=28))


def test_a_whole_number_is_fine_where_a_number_is_asked_for(tmp_path: Path):
    mass_kg = read(in_file(tmp_path, GOOD), Bicycle).mass_kg
    assert isinstance(mass_kg, float)
    assert mass_kg == 12.0


def test_a_byte_order_mark_is_no_fault(tmp_path: Path):
    assert read(in_file(tmp_path, b"\xef\xbb\xbf" + GOOD.encode()), Bicycle).name == "roadster"


@pytest.mark.parametrize(("good", "bad", "key", "says"), BAD_VALUES)
def test_one_bad_value_is_one_fault_that_names_its_key(tmp_path: Path, good: str, bad: str, key: str, says: str):
    assert good in GOOD
    faults = faults_of(in_file(tmp_path, GOOD.replace(good, bad)))
    about = [fault for fault in faults if fault.startswith((f"{key} = ", f"{key}: "))]
    assert len(about) == 1
    assert says in about[0]
    # A misspelt key is two faults: one key too many, and the right one missing.
    assert len(faults) == 1 + ("no key" in about[0] and "spoke" not in about[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Bell:
    bought: date


@pytest.mark.parametrize("bad", [2023, "2023-01-01", 20230101.0])
def test_a_year_or_a_text_is_no_date(bad: object):
    assert parse({"bought": date(2023, 1, 1)}, Bell, "bell") == Bell(bought=date(2023, 1, 1))
    with pytest.raises(DescriptorError, match=r"bell: bought = .*date"):
        parse({"bought": bad}, Bell, "bell")


def test_all_faults_of_a_file_come_at_once(tmp_path: Path):
    faults = faults_of(in_file(tmp_path, 'name = 1\nmass_kg = "x"\ngears = 0\nbell = true\nprices = {a = nan}'))
    keys = {fault.split(" = ")[0].split(": ")[0] for fault in faults}
    assert keys == {
        *("name", "mass_kg", "gears", "bell", "prices.a"),
        *("kind", "efficiency", "electric", "wheels"),
    }


def test_an_empty_file_lacks_every_key(tmp_path: Path):
    faults = faults_of(in_file(tmp_path, ""))
    assert len(faults) == 8
    assert all("missing" in fault for fault in faults)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('name = "a"\nmass_kg = = 3\n', "is not TOML: Invalid value (at line 2"),
        ('name = "a"\nname = "b"\n', "is not TOML: Cannot overwrite a value (at line 2"),
        ("name = ", "is not TOML: Invalid value (at end of document)"),
        ("just words", "is not TOML"),
        ('{"name": "json"}', "is not TOML"),
        ("a = " + "[" * 100_000, "is not TOML: nested too deeply"),
        ("a = 1" + "0" * 5000, "is not TOML"),
        (b"name = '\xff\xfe'", "is not UTF-8 text (byte 8)"),
        (b"\x00\x01\x02", "is not TOML"),
    ],
)
def test_what_is_not_toml_is_said_with_its_place(tmp_path: Path, content: str | bytes, says: str):
    (fault,) = faults_of(in_file(tmp_path, content))
    assert says in fault


def test_a_missing_file_is_said(tmp_path: Path):
    assert faults_of(tmp_path / "none.toml") == ("no such file",)


def test_a_folder_is_no_file(tmp_path: Path):
    assert faults_of(tmp_path) == ("is a folder; should be a TOML file",)


def test_a_path_below_a_file_is_said(tmp_path: Path):
    (fault,) = faults_of(in_file(tmp_path, GOOD) / "below.toml")
    assert fault.startswith("cannot be read")


def test_an_unreadable_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def denied(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", denied)
    assert faults_of(tmp_path / "bicycle.toml") == ("cannot be read: Permission denied",)


def test_faults_between_fields_are_lines_of_their_own(tmp_path: Path):
    text = GOOD.replace("electric = false", "electric = true").replace('"city"', '"road"')
    faults = faults_of(in_file(tmp_path, text))
    assert faults == ("kind: a road bicycle has no motor", "electric: should be false for a road bicycle")


@pytest.mark.parametrize("data", [[], "text", None, 3])
def test_only_a_table_can_become_a_dataclass(data: object):
    with pytest.raises(DescriptorError, match=r"job: is .*: should be a table"):
        parse(data, Wheel, "job")  # type: ignore[arg-type]


def test_data_that_is_already_a_mapping_is_parsed_and_left_as_it_was():
    data = {"radius_m": "big"}
    assert parse(data, Wheel, "here", radius_m=len).radius_m == 3
    assert data == {"radius_m": "big"}


def test_a_finished_value_takes_the_place_of_what_the_file_says():
    assert parse({"radius_m": "big"}, Wheel, "here", radius_m=0.5) == Wheel(radius_m=0.5)


def test_a_name_that_cannot_be_resolved_is_one_fault_among_the_others():
    def size(name: str) -> float:
        raise DescriptorError("", [unknown("size", name, ["small", "large"])])

    with pytest.raises(DescriptorError) as caught:
        parse({"radius_m": "larg", "spokes": -1}, Wheel, "here", radius_m=size)
    assert caught.value.faults == (
        "radius_m: no size 'larg'; nearest: large; known: large, small",
        "spokes = -1: should be greater than 0",
    )


def test_a_key_to_resolve_that_is_missing_is_said_to_be_missing():
    with pytest.raises(DescriptorError, match="here: radius_m: missing"):
        parse({}, Wheel, "here", radius_m=len)


def test_an_unknown_name_is_answered_with_the_nearest_known_ones():
    assert unknown("device", "h900", ["h200-sxm", "mi300x", "h100-sxm"]) == (
        "no device 'h900'; nearest: h100-sxm, h200-sxm; known: h100-sxm, h200-sxm, mi300x"
    )
    assert unknown("device", "zzz", []) == "no device 'zzz'; known: none"


def test_the_error_survives_a_trip_to_another_process():
    error = DescriptorError("a.toml", ["x: missing", "y: missing"])
    again = pickle.loads(pickle.dumps(error))
    assert (again.path, again.faults, str(again)) == (
        "a.toml",
        error.faults,
        "a.toml: x: missing\na.toml: y: missing",
    )


def test_raw_tables_are_what_the_file_says(tmp_path: Path):
    assert math.isnan(read_toml(in_file(tmp_path, "x = nan"))["x"])
