"""What several nodes are tested with."""

from __future__ import annotations

import pytest

from bolid.detectors.faces import InsightFaceAnalysis

from ..support.face_analysis import write_face_analysis_pack


@pytest.fixture(scope="module")
def face_analysis(tmp_path_factory: pytest.TempPathFactory) -> InsightFaceAnalysis:
    """insightface with networks that were generated for tests."""
    root = tmp_path_factory.mktemp("insightface")
    write_face_analysis_pack(root)
    return InsightFaceAnalysis(root=root, model_pack="generated")
