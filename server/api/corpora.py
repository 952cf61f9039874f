"""Corpora."""

from fastapi import APIRouter, Response, status

from server.api.deps import IdPath, ServicesDep
from server.api.problems import RESPONSES
from server.api.views import CorpusSpec, CorpusView

router = APIRouter(prefix="/v1/corpora", tags=["corpora"], responses=RESPONSES)


@router.post("", operation_id="register_corpus", status_code=201, responses={200: {"model": CorpusView}})
def register_corpus(spec: CorpusSpec, services: ServicesDep, response: Response) -> CorpusView:
    """Register uploaded files as a corpus."""
    corpus, new = services.corpora.register(spec)
    response.status_code = status.HTTP_201_CREATED if new else status.HTTP_200_OK
    response.headers["location"] = f"/v1/corpora/{corpus.id}"
    return corpus


@router.get("", operation_id="list_corpora")
def list_corpora(services: ServicesDep) -> list[CorpusView]:
    """Every corpus, newest first."""
    return services.corpora.all()


@router.get("/{corpus}", operation_id="get_corpus")
def get_corpus(corpus: IdPath, services: ServicesDep) -> CorpusView:
    """One corpus."""
    return services.corpora.view(corpus)
