"""The OpenAI client, unchanged: ``OPENAI_BASE_URL=http://model.desk/v1 hopseal run -- python plain_openai.py``."""

from __future__ import annotations

import openai

client = openai.OpenAI(api_key="none", max_retries=0)
answer = client.chat.completions.create(model="any", messages=[{"role": "user", "content": "Who is there?"}])
print(answer.choices[0].message.content)
