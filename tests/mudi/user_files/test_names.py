"""Names that no folder of a run can bear are refused, wherever they are given."""

import pytest

from mudi.user_files.captions import names
from mudi.user_files.names import check_combination_name, check_subject_key, is_device


@pytest.mark.parametrize("name", ["CON", "nul.jpg", "Com1.tar.gz", "lpt9", "aux", "prn.PNG"])
def test_a_device_is_one_whatever_its_case_and_suffix(name):
    assert is_device(name)
    with pytest.raises(ValueError, match=f'--out x: [^\n]*"{name}" is a device on some systems'):
        check_combination_name("--out x", name)


@pytest.mark.parametrize("name", ["console", "null.jpg", "com0", "com10", "lpt", "my.con", "nul00.jpg", "corgi_con"])
def test_a_name_that_only_holds_a_device_is_none(name):
    assert not is_device(name)
    check_combination_name("here", name)


@pytest.mark.parametrize("key", ["", "1a", "a b", "..", "ü", "a.b", "nul", "SUBJECTS", "Lpt1"])
def test_a_key_that_cannot_name_a_subject_is_refused(key):
    with pytest.raises(ValueError, match=r"\Ahere: the subject key [^\n]+\Z"):
        check_subject_key("here", key)


def test_an_identifier_is_looked_for_as_a_word_in_any_case():
    assert all(names(caption, "olis") for caption in ("a olis corgi", "OLIS!", "the olis's", "a (olis)"))
    assert not any(names(caption, "olis") for caption in ("polished", "olisa", "olis_1", "metropolis", ""))
