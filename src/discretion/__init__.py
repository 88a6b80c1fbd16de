"""discretion: what did this fine-tuning do to my model's discretion, and is it proven?"""

__version__ = "0.1.0"
