"""Trained models for other libraries: one target a file in `targets/`, each with a model card.

    medssl export RUN --to safetensors --out FOLDER

The folder's name is not `export`, since `medssl.export` is the function.
"""
