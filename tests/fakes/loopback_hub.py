"""A Hugging Face hub on loopback: the files of one data set, as huggingface_hub asks for them."""
import hashlib

from fakes.loopback import Loopback, Reply

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(Loopback):
    """`files` by their path in the data set `repo`."""

    def __init__(self, files: dict[str, bytes], repo: str = "OneOverZero/MAGICK"):
        super().__init__()
        self.files, self.repo = files, repo

    def answer(self, request):
        repo, _, name = request.path.removeprefix("/datasets/").partition("/resolve/")
        body = self.files.get(name.partition("/")[2])
        if repo != self.repo:
            return Reply(404, headers={"X-Error-Code": "RepoNotFound"})
        if body is None:
            return Reply(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        return Reply(200, body, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'})

    def fetched(self) -> int:
        """Bytes of images sent, over all requests."""
        return sum(count for path, count in self.sent.items() if "/images/" in path)
