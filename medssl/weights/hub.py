"""The file that a user names: on this machine, or on the Hugging Face hub where the name begins with `hf:`.

    local_file("runs/model_swinvit.pt")
    local_file("hf:MIC-DKFZ/nnFoundationCNN")          # fetched by huggingface_hub, into its own cache
    local_file("hf:MIC-DKFZ/nnFoundationCNN/checkpoint_final.pth")

Nothing else in medssl asks the network for weights. On a machine without it, fetch the file elsewhere and give its path.
"""

from __future__ import annotations

from pathlib import Path

from medssl.core.errors import MedsslError
from medssl.core.progress import console

PREFIX = "hf:"
TIMEOUT_S = 10.0
ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")  # the first ending that a repository has is taken


def local_file(name: str) -> Path:
    """The file on this machine.

    Args:
        name: A path, or `hf:OWNER/NAME`, with the path of a file in it where it holds several.

    Raises:
        MedsslError: There is no such file, or the hub cannot be reached.
    """
    if not name.startswith(PREFIX):
        path = Path(name)
        if not path.exists():
            raise MedsslError(
                f"{path.name} does not exist: expected a file of weights, a folder with one, or hf:OWNER/NAME on the Hugging Face hub"
            )
        return path
    owner, _, rest = name.removeprefix(PREFIX).partition("/")
    repository, _, inside = rest.partition("/")
    if not (owner and repository):
        raise MedsslError(f"{name} names no repository: expected hf:OWNER/NAME, as hf:MIC-DKFZ/nnFoundationCNN")
    return _fetched(f"{owner}/{repository}", inside)


def _fetched(repository: str, inside: str) -> Path:
    try:
        from huggingface_hub import HfApi, hf_hub_download
    except ModuleNotFoundError:
        raise MedsslError(
            "huggingface_hub is missing: expected it for a name that begins with hf:; run pip install 'medssl[hub]', or fetch the file in "
            "another way and give its path"
        ) from None
    console.print(f"asking huggingface.co for {repository}")
    try:
        files = [entry.rfilename for entry in HfApi().model_info(repository, timeout=TIMEOUT_S).siblings or []]
        chosen = inside or _weights_among(files, repository)
        for beside in ("config.json", "preprocessor_config.json"):
            if beside in files:
                hf_hub_download(repository, beside)
        return Path(hf_hub_download(repository, chosen))
    except MedsslError:
        raise
    except Exception as error:  # the hub's client raises its own and its http library's errors
        raise MedsslError(
            f"{repository} could not be fetched from huggingface.co ({type(error).__name__}): expected a network, a repository of that "
            "name, and its terms accepted; or fetch the file on another machine and give its path"
        ) from None


def _weights_among(files: list[str], repository: str) -> str:
    for ending in ENDINGS:
        found = [file for file in files if file.endswith(ending)]
        if len(found) == 1:
            return found[0]
        if found:
            raise MedsslError(
                f"{repository} holds {len(found)} files of weights: expected one; name it, as hf:{repository}/{found[0]}"
            )
    raise MedsslError(f"{repository} holds no file of weights: expected one that ends in {', '.join(ENDINGS)}")
