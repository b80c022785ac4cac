"""A loopback Hub in this process, which the client here believes to be the Hub."""

import pytest
from huggingface_hub import constants, hf_api
from huggingface_hub.utils import close_session
from transformers.utils import hub as transformers_hub

from tests.model_cards.hub_server import HubServer


def use_hub(patch: pytest.MonkeyPatch, hub: HubServer, cache) -> None:
    """Point the client of this process to `hub`, with the writer's token."""
    for name in ("ENDPOINT", "HF_ENDPOINT"):
        patch.setattr(constants, name, hub.url, raising=False)
    patch.setattr(hf_api.api, "endpoint", hub.url)  # behind `create_repo` and others, made when first imported
    patch.setattr(transformers_hub, "_hf_api", None)  # that of transformers, made when first needed
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    patch.setenv("HF_TOKEN", hub.token)
    close_session()


@pytest.fixture(scope="module")
def module_hub(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, HubServer() as hub:
        use_hub(patch, hub, tmp_path_factory.mktemp("cache"))
        yield hub
    close_session()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with HubServer() as server:
        use_hub(monkeypatch, server, tmp_path)
        yield server
    close_session()
