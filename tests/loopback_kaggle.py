"""Kaggle on loopback, as the real client speaks with it: POST /api/v1/<service>/<Method>, JSON both ways.

`RPC` maps each method to a function of (server, request as a dict) -> dict or Reply; to serve more, add to it.
"""
import json

from loopback import Loopback, Reply, file_reply


class KaggleServer(Loopback):
    """`archives`: zip bytes by competition; `closed`: competitions whose rules this account has not accepted."""

    def __init__(self, archives: dict[str, bytes] | None = None, closed: tuple[str, ...] = ()):
        super().__init__()
        self.archives, self.closed = archives or {}, closed

    def isolate(self, monkeypatch) -> None:
        """Sends the client here, with credentials; to be called after loopback.isolate()."""
        monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
        monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
        monkeypatch.setenv("KAGGLE_KEY", "secret")

    def answer(self, request):
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


RPC = {
    "competitions.CompetitionApiService/DownloadDataFiles": download_data_files,
}
