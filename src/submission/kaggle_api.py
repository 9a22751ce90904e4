"""What the Kaggle client's library says about submissions, kernels and data sets, printed as JSON.

    python -P src/submission/kaggle_api.py submissions titanic

kaggle_client.py runs this as a child process, because a request can hang and must then be killed. stdout holds nothing
but the JSON: the library's warnings go to stderr. Errors end as in the client's own commands: a message, exit code 1.
"""
import contextlib
import json
import sys

RECENT = 50       # submissions listed, newest first
MOST_FILES = 200  # listed of a data set


def submissions(api, competition: str) -> list[dict]:
    """The account's (or its team's) most recent submissions, newest first."""
    return [{"reference": str(each.ref), "time": str(each.date)[:19], "file_name": each.file_name or "",
             "message": each.description or "", "status": each.status.name.lower(),
             "public_score": each.public_score, "error": each.error_description or ""}
            for each in api.competition_submissions(competition, page_size=RECENT) or []]


def limits(api, competition: str) -> dict:
    """How many submissions are left today, and whether the competition's total is what limits them."""
    found = api.competition_get_submission_limits(competition)
    return {"left": found.num_allowed_now, "by_total": bool(found.limited_by_total)}


def kernel_status(api, kernel: str) -> dict:
    """The last run's status (QUEUED, RUNNING, COMPLETE, ERROR …) and Kaggle's message about a failure."""
    found = api.kernels_status(kernel)
    return {"status": found.status.name, "message": found.failure_message or ""}


def kernel_version(api, kernel: str) -> int:
    """The number of the latest version, which the client's commands do not show."""
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

    request = ApiGetKernelRequest()
    request.user_name, request.kernel_slug = kernel.split("/")
    with api.build_kaggle_client() as client:
        return client.kernels.kernels_api_client.get_kernel(request).metadata.current_version_number


def dataset_status(api, dataset: str) -> dict:
    """status (ready, failed …) and current_version_number."""
    return json.loads(api.dataset_status(dataset, format="json"))


def dataset_files(api, dataset: str) -> dict[str, int]:
    """Names and sizes in bytes of the current version's files."""
    found = api.dataset_list_files(dataset, page_size=MOST_FILES)
    if found.error_message:
        raise ValueError(found.error_message)
    return {each.name: each.total_bytes for each in found.files}


QUESTIONS = {question.__name__: question for question in (submissions, limits, kernel_status, kernel_version,
                                                          dataset_status, dataset_files)}


def main() -> None:
    question, name = sys.argv[1:]
    with contextlib.redirect_stdout(sys.stderr):
        from kaggle import api  # not above: it reads the credentials at once

        if not api._authenticated:
            api.authenticate()  # says how to get credentials, exit code 1
        try:
            answer = QUESTIONS[question](api, name)
        except (ValueError, OSError) as error:  # OSError: all errors of requests
            refused = getattr(getattr(error, "response", None), "status_code", None) == 401
            sys.exit(f"401 {error}" if refused else str(error))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
