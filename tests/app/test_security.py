"""Who may ask: the page's own origin, with the session's token."""

from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from graphprune.core.errors import InputError
from graphprune.explorer import create_app, serve

ASK = {"output": "x", "inputs": []}
CALLBACK, HOST = "/_dash-update-component", "127.0.0.1:8050"


@pytest.fixture
def client(run_folder: Path) -> FlaskClient:
    server: Flask = create_app(run_folder).server
    return server.test_client()


def opened(client: FlaskClient) -> FlaskClient:
    assert client.get("/", headers={"Host": HOST}).status_code == 200
    return client


def test_the_page_brings_the_token_and_a_request_without_it_is_refused(client: FlaskClient) -> None:
    assert client.post(CALLBACK, json=ASK, headers={"Host": HOST}).status_code == 403
    assert opened(client).post(CALLBACK, json=ASK, headers={"Host": HOST}).status_code != 403


def test_the_token_is_out_of_reach_of_scripts_and_of_other_sites(client: FlaskClient) -> None:
    cookie = client.get("/", headers={"Host": HOST}).headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_a_request_of_another_origin_is_refused_even_with_the_token(
    client: FlaskClient, headers: dict[str, str]
) -> None:
    answer = opened(client).post(CALLBACK, json=ASK, headers={"Host": HOST, **headers})
    assert answer.status_code == 403


def test_a_name_that_only_points_here_is_refused(client: FlaskClient) -> None:
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 403


def test_beyond_this_machine_a_token_is_demanded(run_folder: Path) -> None:
    with pytest.raises(InputError, match="--token"):
        serve(run_folder, host="0.0.0.0")  # noqa: S104 - that it is refused is the point
    client = create_app(run_folder, token="secret", host="0.0.0.0").server.test_client()  # noqa: S104, S106 - likewise
    host = {"Host": "machine:8050"}
    assert client.get("/", headers=host).status_code == 403
    assert client.get("/?token=wrong", headers=host).status_code == 403
    moved = client.get("/?token=secret&view=graph", headers=host)
    assert (moved.status_code, moved.headers["Location"]) == (302, "/?view=graph")
    assert client.get("/", headers=host).status_code == 200


@pytest.mark.parametrize("path", ["/download/anatomy.csv", "/download/anatomy.json"])
def test_only_figures_that_there_are_can_be_downloaded(client: FlaskClient, path: str) -> None:
    opened(client)
    assert client.get(path, headers={"Host": HOST}).status_code == 200
    for wrong in ("/download/nothing.csv", "/download/anatomy.exe"):
        assert client.get(wrong, headers={"Host": HOST}).status_code == 404
    assert "graphprune.run" not in client.get("/download/..%2Fmanifest.json", headers={"Host": HOST}).text


def test_a_path_in_a_link_opens_no_file(client: FlaskClient) -> None:
    answer = opened(client).get("/download/anatomy.csv?mask=../../manifest", headers={"Host": HOST})
    assert answer.status_code == 400
    assert "no masks named" in answer.text
