"""The Open Inference Protocol with a real client, and the OpenAPI document with a validator."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serve.server import Server

MODEL = "hf"  # the folder's name


def infer(served: Server, header: Any, binary: bytes = b"") -> Any:
    text = json.dumps(header).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))} if binary else {}
    return served.ask("POST", f"/v2/models/{MODEL}/infer", text + binary, headers)


def image_input(**changes: Any) -> dict[str, Any]:
    return {"name": "image", "datatype": "BYTES", "shape": [1], **changes}


@pytest.mark.parametrize("is_binary", [True, False])
def test_tritonclient_gets_the_same_classes(served: Server, photos: list[Path], is_binary: bool) -> None:
    client_module = pytest.importorskip("tritonclient.http")
    contents = [photo.read_bytes() for photo in photos[:4]]
    client = client_module.InferenceServerClient(f"{served.host}:{served.port}")
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(MODEL)
        assert client.get_server_metadata()["name"] == "levit"
        metadata = client.get_model_metadata(MODEL)
        assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
        assert [output["name"] for output in metadata["outputs"]] == ["index", "label", "prob"]
        image = client_module.InferInput("image", [4], "BYTES")
        image.set_data_from_numpy(np.array(contents, dtype=object), binary_data=True)
        names = ("index", "label", "prob")
        outputs = [client_module.InferRequestedOutput(name, binary_data=is_binary) for name in names]
        result = client.infer(MODEL, [image], outputs=outputs, request_id="7", parameters={"top_k": 3})
        assert result.get_response()["id"] == "7"
        for row, content in enumerate(contents):
            top = served.post(content, "/predict?top_k=3").json["top"]
            assert result.as_numpy("index")[row].tolist() == [ranked["index"] for ranked in top]
            labels = result.as_numpy("label")[row].tolist()
            assert [label.decode() if isinstance(label, bytes) else label for label in labels] == [
                ranked["label"] for ranked in top
            ]
            np.testing.assert_allclose(result.as_numpy("prob")[row], [ranked["prob"] for ranked in top], atol=1e-6)
        image.set_data_from_numpy(np.array([contents[0], b"words", *contents[:2]], dtype=object), binary_data=True)
        with pytest.raises(client_module.InferenceServerException, match="image 1: not_an_image"):
            client.infer(MODEL, [image])
    finally:
        client.close()


def test_json_without_the_binary_extension(served: Server, photos: list[Path]) -> None:
    data = [base64.b64encode(photo.read_bytes()).decode() for photo in photos[:2]]
    answer = infer(served, {"inputs": [image_input(shape=[2], data=data)], "outputs": [{"name": "label"}]})
    (label,) = answer.json["outputs"]
    assert (label["name"], label["datatype"], label["shape"]) == ("label", "BYTES", [2, 5])
    expected = [ranked["label"] for photo in photos[:2] for ranked in served.post(photo.read_bytes()).json["top"]]
    assert label["data"] == expected
    assert "id" not in answer.json


@pytest.mark.guarantee("serve-malformed")
@pytest.mark.parametrize(
    ("header", "binary"),
    [
        ([], b""),
        ({}, b""),
        ({"inputs": []}, b""),
        ({"inputs": [image_input(name="pixels")]}, b""),
        ({"inputs": [image_input(datatype="UINT8")]}, b""),
        ({"inputs": [image_input(shape="1")]}, b""),
        ({"inputs": [image_input(shape=[])]}, b""),
        ({"inputs": [image_input(shape=[1, 2])]}, b""),
        ({"inputs": [image_input(shape=[-1], data=["AAAA"])]}, b""),
        ({"inputs": [image_input(shape=[True], data=["AAAA"])]}, b""),
        ({"inputs": [image_input(shape=[2], data=["AAAA"])]}, b""),
        ({"inputs": [image_input(shape=[0], data=[])]}, b""),
        ({"inputs": [image_input(shape=[2000], data=["AAAA"] * 2000)]}, b""),
        ({"inputs": [image_input(data=["?"])]}, b""),
        ({"inputs": [image_input(data=[1])]}, b""),
        ({"inputs": [image_input(data={"a": "b"})]}, b""),
        ({"inputs": [image_input(data=["ä"])]}, b""),
        ({"inputs": [image_input(parameters={"binary_data_size": 9})]}, b"\x03\x00\x00\x00abc"),
        ({"inputs": [image_input(parameters={"binary_data_size": "7"})]}, b"\x03\x00\x00\x00abc"),
        ({"inputs": [image_input(parameters={"binary_data_size": 7})]}, b"\xff\xff\xff\xffabc"),
        ({"inputs": [image_input(parameters={"binary_data_size": 3})]}, b"abc"),
        ({"inputs": [image_input(parameters={"binary_data_size": -1})]}, b"abc"),
        ({"inputs": [image_input(data=["AAAA"])], "parameters": {"top_k": 0}}, b""),
        ({"inputs": [image_input(data=["AAAA"])], "parameters": {"top_k": "5"}}, b""),
        ({"inputs": [image_input(data=["AAAA"])], "outputs": [{"name": "logits"}]}, b""),
        ({"inputs": [image_input(data=["AAAA"])], "outputs": ["label"]}, b""),
        ({"inputs": [image_input(data=["AAAA"])], "outputs": 7}, b""),
    ],
)
def test_a_malformed_inference_request_is_400(served: Server, header: Any, binary: bytes) -> None:
    answer = infer(served, header, binary)
    assert answer.status == 400, answer.json
    assert isinstance(answer.json["error"], str)


@pytest.mark.parametrize("length", ["x", "-1", "99999", "9" * 5000, ""])
def test_a_wrong_length_of_the_header_is_400(served: Server, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length}
    assert served.ask("POST", f"/v2/models/{MODEL}/infer", b"{}", headers).status == 400


def test_deeply_nested_json_and_other_models(served: Server) -> None:
    assert served.ask("POST", f"/v2/models/{MODEL}/infer", b"[" * 500_000).status == 400
    for target in ("/v2/models/other", "/v2/models/other/ready", f"/v2/models/{MODEL}/versions/2", "/v2/models"):
        assert served.ask("GET", target).status == 404
    assert served.ask("GET", f"/v2/models/{MODEL}/versions/1/ready").json == {"name": MODEL, "ready": True}


def test_the_openapi_document_is_valid_and_names_every_route(served: Server) -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    document = served.ask("GET", "/openapi.json").json
    validator.validate(document)
    for path in document["paths"]:
        status = served.ask("DELETE", path.replace("{name}", MODEL)).status
        assert status == 405, path
    methods = {path: set(entry) - {"parameters"} for path, entry in document["paths"].items()}
    assert methods["/predict"] == {"post"}
    assert len(methods) == 14
