"""Chat templates: from turns to one text, and which characters of it the model must learn to say."""

from graftlm.data.templates.forms import ALPACA_INPUT
from graftlm.data.templates.named import TEMPLATES, named_template
from graftlm.data.templates.rendering import ChatTemplate, Rendered
from graftlm.data.templates.tokenizer import tokenizer_template

__all__ = ["ALPACA_INPUT", "TEMPLATES", "ChatTemplate", "Rendered", "named_template", "tokenizer_template"]
