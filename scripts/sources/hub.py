"""Files of a data set on the Hugging Face hub, by the real client; what may pass is tried again.

    hub = Hub("OneOverZero/MAGICK", "magick_index.tsv")
    hub.download("magick_index.tsv", Path("data/magick"))

HF_ENDPOINT names another hub, `hf auth login` or HF_TOKEN an account.
"""
import time
from pathlib import Path

# What huggingface_hub raises where it has no error of its own.
from httpx2 import HTTPError, InvalidURL, TimeoutException
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.utils import disable_progress_bars, logging

from core.errors import OperationError, brief
from submission.proxies import proxy_fault

FIRST_ANSWER = 10  # seconds to wait for the hub's first answer
PAUSES = (1, 3)  # seconds before each further attempt


class NotThere(OperationError):
    """The hub has no such file."""


class Hub:
    """One revision of a data set: the one that is current now, for all its files."""

    def __init__(self, repo: str, known_file: str):
        disable_progress_bars()  # one per file otherwise; and the client's own retries are not worth a line each
        logging.set_verbosity_error()
        self.repo = repo
        url = hf_hub_url(repo, known_file, repo_type="dataset")
        self.revision = self._patiently(get_hf_file_metadata, url, timeout=FIRST_ANSWER).commit_hash

    def download(self, filename: str, folder: Path) -> Path:
        """folder/filename, whole: fetched unless it is there already. OperationError when the hub does not give it."""
        return Path(self._patiently(hf_hub_download, self.repo, filename, repo_type="dataset", revision=self.revision,
                                    local_dir=folder))

    def _patiently(self, call, *args, **kwargs):
        for pause in (*PAUSES, None):
            try:
                return call(*args, **kwargs)
            except (HTTPError, OSError) as error:
                if getattr(error, "errno", None):
                    raise  # a full disk, say: only the system's own errors have a number
                if pause is None or not may_pass(error):
                    raise self._explained(error) from None
            except (ImportError, ValueError, InvalidURL) as error:  # what the client says of a proxy that it cannot use
                fault = proxy_fault(str(error))
                if fault is None:
                    raise
                raise OperationError(f"{self.repo}: Hugging Face cannot be reached: {fault}") from None
            time.sleep(pause)

    def _explained(self, error: Exception) -> OperationError:
        status = http_status(error)
        if status == 404:
            return NotThere(f"{self.repo}: not found at Hugging Face; is data.magick.repo right?")
        if status in (401, 403):
            return OperationError(f"{self.repo}: Hugging Face refuses access ({status}); log in with `hf auth login`, "
                                  "accept the conditions on the data set's page, or check data.magick.repo")
        words = brief(error.__cause__ or error) or type(error).__name__
        return OperationError(f"{self.repo}: Hugging Face cannot be reached or is in trouble ({words}); check the "
                              "network and run the same command again, it goes on")


def http_status(error: Exception) -> int | None:
    """The status of the hub's answer; the client hides some of its errors behind another."""
    answers = (getattr(cause, "response", None) for cause in (error, error.__cause__))
    return next((answer.status_code for answer in answers if answer is not None), None)


def may_pass(error: Exception) -> bool:
    """Whether another attempt is worth it: not after a clear refusal, nor after the client's own long wait."""
    status = http_status(error)
    return not isinstance(error, TimeoutException) and (status is None or status == 429 or status >= 500)
