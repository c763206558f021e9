from listkit import chunks, flatten


def test_flatten_leaves_a_flat_list_as_it_is():
    assert flatten([1, 2, 3]) == [1, 2, 3]


def test_flatten_one_level():
    assert flatten([1, [2, 3], 4]) == [1, 2, 3, 4]


def test_flatten_any_depth():
    assert flatten([1, [2, [3, [4]]]]) == [1, 2, 3, 4]


def test_chunks():
    assert chunks([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]
