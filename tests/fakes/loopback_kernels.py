"""Kaggle's data sets and kernels on loopback, in addition to what loopback_kaggle.py serves."""
import json

from fakes.loopback import Reply, file_reply
from fakes.loopback_kaggle import JSON, KaggleServer, error


class KernelServer(KaggleServer):
    """`datasets`: versions of each, oldest first, as {file name: content}. `pushes`: requests to SaveKernel.

    A push starts a run; each status request gets the next of `statuses`. The run leaves `log` and the files of
    `output`. `refusal`: SaveKernel's answer instead of a new version.
    """

    def __init__(self):
        super().__init__()
        self.datasets, self.pushes, self.blobs = {}, [], {}
        self.statuses, self.failure, self.refusal = ["QUEUED", "RUNNING", "COMPLETE"], "", {}
        self.log, self.output = "", {}
        self.processing = 1  # status requests until a data set is ready

    def answer(self, request):
        if request.path.startswith("/upload/"):
            self.blobs[request.path.removeprefix("/upload/")] = request.body
            return Reply()
        if request.path.startswith("/output/"):
            return file_reply(self.output[request.path.removeprefix("/output/")])
        call = RPC.get(request.path.removeprefix("/api/v1/"))
        if call is None or "Authorization" not in request.headers:
            return super().answer(request)
        reply = call(self, json.loads(request.body))
        return reply if isinstance(reply, Reply) else Reply(200, json.dumps(reply).encode(), JSON)

    def named(self, request: dict) -> list[dict] | None:
        return self.datasets.get(f"{request['ownerSlug']}/{request['datasetSlug']}")

    def files(self, tokens: list[dict]) -> dict[str, bytes]:
        return {each["token"].partition("-")[2]: self.blobs[each["token"]] for each in tokens}


def start_blob_upload(server: KernelServer, request: dict) -> dict:
    token = f"{server.calls('StartBlobUpload')}-{request['name']}"
    return {"token": token, "createUrl": f"http://localhost/upload/{token}"}


def create_dataset(server: KernelServer, request: dict) -> dict:
    reference = f"{request['ownerSlug']}/{request['slug']}"
    server.datasets[reference] = [server.files(request.get("files", []))]
    return {"ref": reference, "url": f"https://www.kaggle.com/datasets/{reference}", "status": "ok"}


def create_dataset_version(server: KernelServer, request: dict) -> dict | Reply:
    versions = server.named(request)
    if versions is None:
        return error(404, "Not found")
    versions.append(server.files(request["body"].get("files", [])))
    return {"url": "https://www.kaggle.com/datasets", "status": "ok"}


def get_dataset_status(server: KernelServer, request: dict) -> dict | Reply:
    if server.named(request) is None:
        return error(403, "Permission 'datasets.get' was denied")
    server.processing -= 1
    return {"status": "BLOBS_RECEIVED" if server.processing >= 0 else "READY"}


def get_dataset(server: KernelServer, request: dict) -> dict:
    return {"ref": f"{request['ownerSlug']}/{request['datasetSlug']}",
            "currentVersionNumber": len(server.named(request))}


def list_dataset_files(server: KernelServer, request: dict) -> dict:
    return {"datasetFiles": [{"name": name, "totalBytes": len(body), "creationDate": "2026-01-02T03:04:05.678Z"}
                             for name, body in server.named(request)[-1].items()]}


def save_kernel(server: KernelServer, request: dict) -> dict:
    server.pushes.append(request)
    return server.refusal or {"ref": request["slug"], "url": f"https://www.kaggle.com/code/{request['slug']}",
                              "versionNumber": len(server.pushes)}


def get_kernel_session_status(server: KernelServer, request: dict) -> dict:
    status = server.statuses.pop(0) if len(server.statuses) > 1 else server.statuses[0]
    return {"status": status, "failureMessage": server.failure}


def list_kernel_session_output(server: KernelServer, request: dict) -> dict:
    return {"log": server.log,
            "files": [{"fileName": name, "url": f"http://localhost/output/{name}"} for name in server.output]}


RPC = {
    "blobs.BlobApiService/StartBlobUpload": start_blob_upload,
    "datasets.DatasetApiService/CreateDataset": create_dataset,
    "datasets.DatasetApiService/CreateDatasetVersion": create_dataset_version,
    "datasets.DatasetApiService/GetDatasetStatus": get_dataset_status,
    "datasets.DatasetApiService/GetDataset": get_dataset,
    "datasets.DatasetApiService/ListDatasetFiles": list_dataset_files,
    "kernels.KernelsApiService/SaveKernel": save_kernel,
    "kernels.KernelsApiService/GetKernelSessionStatus": get_kernel_session_status,
    "kernels.KernelsApiService/ListKernelSessionOutput": list_kernel_session_output,
}
