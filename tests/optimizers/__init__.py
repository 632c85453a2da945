import pytest

# The failures of its checks say what was compared, as those in the tests do.
pytest.register_assert_rewrite("tests.optimizers.task")
