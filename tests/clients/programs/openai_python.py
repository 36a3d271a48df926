"""The official client for Python. Prints what it read as one JSON object."""

import json
import os

import openai

client = openai.OpenAI(base_url=os.environ["STV_URL"] + "/v1", api_key="none", max_retries=0)
messages = [{"role": "user", "content": "Say hi."}]
model = "generator"
limits = {"max_completion_tokens": 4, "seed": 1}

chat = client.chat.completions.create(model=model, messages=messages, n=2, logprobs=True, top_logprobs=2, **limits)
chunks = [
    chunk.model_dump()
    for chunk in client.chat.completions.create(
        model=model, messages=messages, stream=True, stream_options={"include_usage": True}, **limits
    )
]
prompts = ["The sun", ["The sun", "The moon"], [504, 3417], [[504, 3417], [504, 4412]]]
choices = [len(client.completions.create(model=model, prompt=prompt, max_tokens=1).choices) for prompt in prompts]

with client.responses.stream(
    model=model, input="Name a colour.", temperature=0, extra_body={"stop": [" ", ".", "\n"]}
) as stream:
    event_types = [event.type for event in stream]
    response = stream.get_final_response()

solved = client.responses.create(
    model="solve",
    input=[{"role": "user", "content": "What is 2 + 3?"}],
    max_output_tokens=4,
    extra_body={"x_solve": {"max_rounds": 1, "seed": 1, "verifier": {"max_tokens": 4}}},
)

errors = []
for body in ({"response_format": {"type": "json_object"}}, {"model": "nope"}, {"temperature": 9}):
    try:
        client.chat.completions.create(**{"model": model, "messages": messages, **body})
    except openai.APIStatusError as error:
        errors.append({"kind": type(error).__name__, "code": error.code, "param": error.param, "id": error.request_id})

print(
    json.dumps(
        {
            "models": [model.id for model in client.models.list()],
            "chat": chat.model_dump(),
            "requestId": chat._request_id,
            "chunks": chunks,
            "choices": choices,
            "eventTypes": event_types,
            "responseText": response.output_text,
            "solved": {
                "text": solved.output_text,
                "types": [item.type for item in solved.output],
                "usage": solved.usage.model_dump(),
                "summary": solved.model_extra["x_solve"],
            },
            "errors": errors,
        }
    )
)
