"""What a generation counts, however it ends."""

import pytest

from mixtral.server.logs import RequestRecord
from mixtral.server.metrics import Metrics
from mixtral.server.progress import Progress


@pytest.mark.parametrize(("is_refused", "counted"), [(False, 30), (True, 0)])
def test_prompt_counts_when_the_client_leaves_before_the_first_token(
    is_refused: bool, counted: int
) -> None:
    record = RequestRecord(request_id="a", method="POST", path="/v1/completions")
    progress = Progress(Metrics(), record, n=2, prompt_tokens=[10, 20])
    progress.finish(is_complete=False, is_refused=is_refused)
    assert (record.num_prompt_tokens, record.num_completion_tokens) == (counted, 0)
