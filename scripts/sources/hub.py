"""Downloads files of a data set on the Hugging Face hub with its own client, retrying passing failures.

    hub = Hub("OneOverZero/MAGICK", "magick_index.tsv")
    hub.download("magick_index.tsv", Path("data/magick"))

HF_ENDPOINT selects another hub; `hf auth login` or HF_TOKEN an account.
"""
import time
from pathlib import Path

# huggingface_hub raises these where it has no error of its own.
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
    """A data set at its current revision, used for all files."""

    def __init__(self, repo: str, known_file: str):
        disable_progress_bars()  # it would show one per file, and a line per retry
        logging.set_verbosity_error()
        self.repo = repo
        url = hf_hub_url(repo, known_file, repo_type="dataset")
        self.revision = self._patiently(get_hf_file_metadata, url, timeout=FIRST_ANSWER).commit_hash

    def download(self, filename: str, folder: Path) -> Path:
        """folder/filename, fetched unless it is already there. OperationError if that fails."""
        return Path(self._patiently(hf_hub_download, self.repo, filename, repo_type="dataset", revision=self.revision,
                                    local_dir=folder))

    def _patiently(self, call, *args, **kwargs):
        for pause in (*PAUSES, None):
            try:
                return call(*args, **kwargs)
            except (HTTPError, OSError) as error:
                if getattr(error, "errno", None):
                    raise  # e.g. a full disk: only the system's own errors have a number
                if pause is None or not may_pass(error):
                    raise self._explained(error) from None
            except (ImportError, ValueError, InvalidURL) as error:  # a proxy that it cannot use
                fault = proxy_fault(str(error))
                if fault is None:
                    raise
                raise OperationError(f"{self.repo}: Hugging Face cannot be reached: {fault}") from None
            time.sleep(pause)

    def _explained(self, error: Exception) -> OperationError:
        status = http_status(error)
        if status == 404:
            return NotThere(f"{self.repo}: not found on Hugging Face; check data.magick.repo")
        if status in (401, 403):
            return OperationError(f"{self.repo}: Hugging Face denies access ({status}); log in with `hf auth login`, "
                                  "accept the conditions on the data set's page, or check data.magick.repo")
        words = brief(error.__cause__ or error) or type(error).__name__
        return OperationError(f"{self.repo}: Hugging Face cannot be reached or has a problem ({words}); check the "
                              "network and run the same command again to resume")


def http_status(error: Exception) -> int | None:
    """The status of the hub's answer; the client wraps some errors in others."""
    answers = (getattr(cause, "response", None) for cause in (error, error.__cause__))
    return next((answer.status_code for answer in answers if answer is not None), None)


def may_pass(error: Exception) -> bool:
    """Whether to try again: not after a clear refusal or a timeout, which is long enough."""
    status = http_status(error)
    return not isinstance(error, TimeoutException) and (status is None or status == 429 or status >= 500)
