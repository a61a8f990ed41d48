import sys

from simple_queue_server import Failure, Request, Server, load_settings


async def square(request: Request) -> dict[str, float]:
    number = request.parameters.get("number")
    if not isinstance(number, int | float):
        raise Failure("number must be a number")
    return {"square": number * number}


if __name__ == "__main__":
    server = Server(load_settings(sys.argv[1]))
    server.action("square")(square)
    server.run()
