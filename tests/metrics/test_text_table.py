from vos_jax.metrics.text_table import format_table

ROWS = [("name", "value", "remark"), ("a long name", "1", "x"), ("b", "12.5", "")]


def test_the_first_column_begins_at_the_left_and_the_others_end_at_the_right():
    assert format_table(ROWS).splitlines() == [
        "name         value  remark",
        "-----------  -----  ------",
        "a long name      1       x",
        "b             12.5",
    ]


def test_other_columns_may_begin_at_the_left_too():
    assert format_table(ROWS, left=(0, 2)).splitlines()[2] == "a long name      1  x"


def test_a_header_alone_is_a_table():
    assert format_table([("a", "b")]).splitlines() == ["a  b", "-  -"]
