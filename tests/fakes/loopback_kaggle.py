"""Kaggle on loopback, with the protocol of the real client: POST /api/v1/<service>/<Method>, JSON both ways.

`RPC` maps each method to a function of (server, request as a dict) -> dict or Reply; to serve more, add to it.
"""
import json

from fakes.loopback import Loopback, Reply, file_reply


class KaggleServer(Loopback):
    """`archives`: zip bytes by competition; `closed`: competitions whose rules this account has not accepted.

    `submissions`: by competition, oldest first; a new one gets `verdict` after `pending` requests for the list of
    submissions. `uploads`: the bodies of files.
    """

    def __init__(self, archives: dict[str, bytes] | None = None, closed: tuple[str, ...] = ()):
        super().__init__()
        self.archives, self.closed = archives or {}, closed
        self.submissions, self.uploads = {}, {}
        self.pending, self.verdict = 0, {"status": "COMPLETE", "publicScore": "0.01234"}

    def isolate(self, monkeypatch) -> None:
        """Sends the client here, with credentials; call it after loopback.isolate()."""
        monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
        monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
        monkeypatch.setenv("KAGGLE_KEY", "secret")

    def calls(self, name: str) -> int:
        """The number of requests whose path contains `name`."""
        return sum(name in request.path for request in self.requests)

    def answer(self, request):
        if request.path.startswith("/upload/"):
            self.uploads[request.path.removeprefix("/upload/").partition("?")[0]] = request.body
            return Reply()
        if request.path.startswith("/files/"):
            return file_reply(self.archives[request.path.removeprefix("/files/").partition(".zip")[0]])
        if "Authorization" not in request.headers:
            return error(401, "Unauthenticated")
        call = RPC.get(request.path.removeprefix("/api/v1/"))
        reply = call(self, json.loads(request.body)) if call else error(404, "no such method")
        return reply if isinstance(reply, Reply) else Reply(200, json.dumps(reply).encode(), JSON)


JSON = {"Content-Type": "application/json"}


def error(status: int, message: str) -> Reply:
    return Reply(status, json.dumps({"code": status, "message": message}).encode(), JSON)


def download_data_files(server: KaggleServer, request: dict) -> Reply:
    slug = request["competitionName"]
    if slug in server.closed:
        return error(403, "You must accept this competition's rules before you'll be able to download files.")
    if slug not in server.archives:
        return error(404, "Not found")
    return Reply(302, headers={"Location": f"http://localhost/files/{slug}.zip?X-Goog-Signature=secret"})


def unknown(server: KaggleServer, request: dict) -> Reply | None:
    """Kaggle's answer to an account that is not in the competition."""
    if request["competitionName"] in server.closed:
        return error(403, "You must accept this competition's rules before you can submit.")
    return None if request["competitionName"] in server.submissions else error(404, "Not found")


def start_submission_upload(server: KaggleServer, request: dict) -> dict | Reply:
    token = f"blob-{server.calls('StartSubmissionUpload')}-{request['fileName']}"
    return unknown(server, request) or {
        "token": token, "createUrl": f"http://localhost/upload/{token}?X-Goog-Signature=secret"}


def create_submission(server: KaggleServer, request: dict) -> dict | Reply:
    """For both kinds of submission: an uploaded file, or a kernel's version."""
    submissions = server.submissions[request["competitionName"]]
    reference = 1001 + len(submissions)
    file_name = request.get("fileName") or request["blobFileTokens"].split("-", 2)[2]
    submissions.append({"ref": reference, "fileName": file_name, "status": "PENDING", "looks": server.pending,
                        "description": request["submissionDescription"],
                        "date": f"2026-01-02T03:04:{reference % 60:02}.567Z"})
    return {"message": f"Successfully submitted to {request['competitionName']}", "ref": reference}


def list_submissions(server: KaggleServer, request: dict) -> dict | Reply:
    if refusal := unknown(server, request):
        return refusal
    for submission in server.submissions[request["competitionName"]]:
        if submission["status"] == "PENDING":
            submission.update(server.verdict if submission["looks"] == 0 else {"looks": submission["looks"] - 1})
    return {"submissions": server.submissions[request["competitionName"]][::-1]}


def get_submission_limits(server: KaggleServer, request: dict) -> dict:
    done = len(server.submissions[request["competitionName"]])
    return {"numToday": done, "numTotal": done, "numAllowedNow": 5 - done}


RPC = {
    "competitions.CompetitionApiService/DownloadDataFiles": download_data_files,
    "competitions.CompetitionApiService/StartSubmissionUpload": start_submission_upload,
    "competitions.CompetitionApiService/CreateSubmission": create_submission,
    "competitions.CompetitionApiService/CreateCodeSubmission": create_submission,
    "competitions.CompetitionApiService/ListSubmissions": list_submissions,
    "competitions.CompetitionApiService/GetSubmissionLimits": get_submission_limits,
}
