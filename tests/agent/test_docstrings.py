"""What is read out of docstrings."""

from mixtral.agent.docstrings import read_docstring


def test_arguments_may_share_a_line_name_a_type_and_go_on_below() -> None:
    docs = read_docstring(
        """Move a file.

        Only within
        the folder.

        Args:
            source, target (str): Paths,
                relative to the folder.

                A second paragraph.
            overwrite (bool, optional): Whether to replace it: yes or no.

        Returns:
            text: This is no argument.
        """
    )
    assert docs.text == "Move a file.\nOnly within the folder."
    paths = "Paths, relative to the folder. A second paragraph."
    assert docs.arguments == {
        "source": paths,
        "target": paths,
        "overwrite": "Whether to replace it: yes or no.",
    }


def test_type_in_an_entry_may_have_parentheses() -> None:
    docs = read_docstring("Add.\n\nArgs:\n    a: One.\n    b (tuple(int, str)): Two (of: 3).\n")
    assert docs.arguments == {"a": "One.", "b": "Two (of: 3)."}


def test_no_docstring_says_nothing() -> None:
    docs = read_docstring(None)
    assert docs.text == ""
    assert docs.arguments == {}


def test_other_styles_are_text() -> None:
    docs = read_docstring("Add.\n\n:param a: one number\n")
    assert docs.text == "Add.\n:param a: one number"
    assert docs.arguments == {}
