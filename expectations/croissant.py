"""Croissant 1.0 (MLCommons): a dataset version as JSON-LD, with its files, splits, columns and what is known for responsible use.

What the format recommends and no manifest knows (the date of publication) is left out: the file is part of the version's bytes. The RAI
vocabulary's fields are filled only from facts; an absent one means that nobody said. What all cards share is here too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
RAI_CONFORMS_TO = "http://mlcommons.org/croissant/RAI/1.0"
LICENCE_ID = re.compile(r"[A-Za-z0-9.+-]+")
SPLIT_KINDS = {"train": "cr:TrainingSplit", "validation": "cr:ValidationSplit", "test": "cr:TestSplit"}
COLUMNS = {
    "doc_id": "Name of the capture: a hash of source, URL and payload.",
    "content_id": "Equal for exact duplicates of the extracted text.",
    "source": "The configured source that the document came from.",
    "url": "Canonical URL, or the source's own name of the row.",
    "host": "Host of the URL.",
    "text": "The text after rewriting and redaction.",
    "text_digest": "Digest of exactly this text.",
    "title": "Title that the page gives itself.",
    "author": "Authors that the page names, joined by semicolons.",
    "date": "Day of publication that the page states, YYYY-MM-DD.",
    "language_tag": "Language that the page declares (BCP 47); `language` is what was found.",
    "canonical_url": "The page's own canonical URL.",
    "licence": "URL or words of the licence that the page states.",
    "site_name": "Name that the site gives itself.",
    "robots_denies": "Collectors of training data that the site's robots.txt forbids the page to.",
    "robots_orders": "Orders to robots by X-Robots-Tag and meta tag.",
    "tdm_reserved": "Whether text and data mining is reserved (TDM Reservation Protocol).",
    "content_signal": "Content-Signal of the site's robots.txt.",
    "language": "Code of the language that fastText's lid.176 found (ISO 639-1, or 639-3 where that has none), or `unknown`.",
    "language_score": "Its probability, 0 to 1.",
    "contaminated": "Evaluation sets of which the document holds an item; empty where it holds none.",
    "augmented": "How the document was made of another one (swap, noise, paraphrase); empty in documents that are as they came.",
    "augmented_from": "The doc_id of that one.",
}
# the official context, word for word: validators compare it
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    **{
        name: f"cr:{name}"
        for name in (
            *("citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet", "format"),
            *("includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
            *("repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"),
        )
    },
}


@dataclass(frozen=True)
class File:
    """One shard as it lies in the folder."""

    name: str
    num_bytes: int
    sha256: str
    split: str


@dataclass(frozen=True)
class Responsible:
    """What is known for responsible use; an empty one is left out."""

    collection: str = ""
    collection_types: Sequence[str] = ()
    preprocessing: Sequence[str] = ()
    limitations: str = ""
    sensitive: str = ""


def croissant(
    *,
    title: str,
    description: str,
    licence: str,
    url: str,
    version: str,
    files: Sequence[File],
    schema: pa.Schema,
    rai: Responsible,
) -> dict[str, Any]:
    """The JSON-LD of one dataset version; a record set per split, in whose Parquet files the columns are.

    Args:
        url: where the dataset can be had; empty leaves it out.
        version: name of the version; told as a build of 1.0.0, since the format wants a semantic version.
    """
    splits = list(dict.fromkeys(file.split for file in files))
    found: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": title,
        "description": description,
        "conformsTo": [CONFORMS_TO, RAI_CONFORMS_TO],
        "license": licence,
        "url": url,
        "version": f"1.0.0+{version}",
        "citeAs": f"{title}, dataset version {version}, made by Gristmill",
        "distribution": [*map(_file_object, files), *(_file_set(name, files) for name in splits)],
        "recordSet": [_splits(splits), *(_record_set(name, schema) for name in splits)],
        "rai:dataCollection": rai.collection,
        "rai:dataCollectionType": list(rai.collection_types),
        "rai:dataPreprocessingProtocol": list(rai.preprocessing),
        "rai:dataLimitations": rai.limitations,
        "rai:personalSensitiveInformation": rai.sensitive,
    }
    return {key: value for key, value in found.items() if value not in ("", [])}


def _file_object(file: File) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file.name,
        "name": file.name,
        "contentUrl": file.name,
        "contentSize": f"{file.num_bytes} B",
        "encodingFormat": "application/x-parquet",
        "sha256": file.sha256,
    }


def _file_set(split: str, files: Sequence[File]) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{split}-files",
        "name": f"{split}-files",
        "encodingFormat": "application/x-parquet",
        "includes": [file.name for file in files if file.split == split],
    }


def _splits(names: Sequence[str]) -> dict[str, Any]:
    fields = (("name", "sc:Text"), ("url", "sc:URL"))
    return {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [
            {"@type": "cr:Field", "@id": f"splits/{name}", "name": name, "description": f"{name} of the split", "dataType": kind}
            for name, kind in fields
        ],
        "data": [{"splits/name": name, "splits/url": SPLIT_KINDS.get(name, "cr:Split")} for name in names],
    }


def _record_set(split: str, schema: pa.Schema) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "description": f"The documents of the {split} split.",
        "key": {"@id": f"{split}/doc_id"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{split}/{field.name}",
                "name": field.name,
                "description": COLUMNS.get(field.name, field.name),
                "dataType": _data_type(field.type),
                "source": {"fileSet": {"@id": f"{split}-files"}, "extract": {"column": field.name}},
            }
            for field in schema
        ],
    }


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_floating(kind):
        return "sc:Float"
    return "sc:Integer" if pa.types.is_integer(kind) else "sc:Text"


def hub_licence(licence: str) -> dict[str, str]:
    """A licence in the head of a card: the hub knows lower-case ids; what is none is told as words."""
    if LICENCE_ID.fullmatch(licence):
        return {"license": licence.lower()}
    return {"license": "other", "license_name": licence}


def sources_told(listed: Sequence[Mapping[str, Any]]) -> list[str]:
    """Configured sources in words for a card; folders of the machine that read them are not named."""
    words = []
    for source in listed:
        what = source.get("dataset") or ", ".join(list(source.get("urls") or ())[:5])
        words.append(f"{source.get('name') or source.get('kind')} ({source.get('kind')}{': ' + what if what else ''})")
    return words
