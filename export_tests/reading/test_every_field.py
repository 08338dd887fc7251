"""Every field of every record gone, of another type, negative, huge: it is refused by its name, or shown as it is."""

from __future__ import annotations

import re
import warnings
import zlib

import pytest

from attn_deploy.errors import AttnDeployError, FileWarning
from export_tests.reading.field_kinds import KINDS
from export_tests.reading.fields import GONE, VALUES, damaged, path_of, places

# In the default tier so many damages of a kind, drawn by their names; the slow tier has each.
SOME = 25
NOT_IN_TOML = ("null", "half a character", "beyond floats")
TABLES = [n for n in KINDS if n != "evidence"]  # which is the entries of a file's metadata, each a record of its own


def damages(name):
    """What is done to the fields of a record: place, word, data."""
    sound = KINDS[name].sound
    for place in places(sound):
        for word, value in VALUES.items():
            if value is GONE and isinstance(place[-1], int):
                continue
            if name.endswith("file") and word in NOT_IN_TOML:
                continue
            yield place, word, damaged(sound, place, value)


def names_the_field(text, place):
    """Whether a message names the field, or the list or table that it stands in, or the option that it is."""
    text = re.sub(r"[-_ ]", "", text.lower())
    keys = [re.sub(r"[-_ ]", "", str(k).lower()) for k in place if isinstance(k, str)]
    return "schema" in text or any(k in text or k.removesuffix("s") in text for k in keys[-2:])


def faults_of(name, chosen):
    kind = KINDS[name]
    for place, word, data in chosen:
        where = f"{path_of(place)} {word}"
        try:
            with warnings.catch_warnings():  # the evidence of a file that is not what was proven is read with a warning
                warnings.simplefilter("ignore", FileWarning)
                record = kind.read(data)
        except AttnDeployError as error:
            if not names_the_field(str(error), place):
                yield f"{where}: refused without its name: {str(error)!a}"
            continue
        except Exception as error:
            yield f"{where}: {type(error).__name__} when read: {str(error)!a}"
            continue
        try:
            kind.use(record)
        except AttnDeployError:
            continue  # one line, as that two records have nothing in common
        except Exception as error:
            yield f"{where}: {type(error).__name__} when used: {str(error)!a}"


@pytest.mark.parametrize("name", KINDS)
def test_a_sound_record_is_read_and_used(name):
    kind = KINDS[name]
    kind.use(kind.read(kind.sound))


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_field_is_named_or_shown_as_it_is(name):
    every = list(damages(name))
    step = max(1, len(every) // SOME)
    chosen = [d for d in every if zlib.crc32(f"{path_of(d[0])} {d[1]}".encode()) % step == 0]
    assert not list(faults_of(name, chosen))


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_damage_of_every_field(name):
    assert not list(faults_of(name, damages(name)))


@pytest.mark.parametrize("name", [n for n in TABLES if not n.endswith("file") and n != "matrix's options"])
def test_a_field_that_this_version_does_not_know_is_passed_over(name):
    """A record of a later version says more: what this one knows of it is read right."""
    kind = KINDS[name]
    assert kind.read({**kind.sound, "a field of tomorrow": [None]}) == kind.read(kind.sound)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("data", [None, [], "text", 3, {}], ids=repr)
def test_what_is_no_record_at_all_is_refused(name, data):
    if name.endswith("file") and not isinstance(data, dict):
        pytest.skip("TOML is a table")
    if name == "matrix's options" and data == {}:
        pytest.skip("each has a default")
    with pytest.raises(AttnDeployError):
        KINDS[name].read(data)
