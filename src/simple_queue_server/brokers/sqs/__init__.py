"""The broker for Amazon SQS, based on aiobotocore (the extra ``[sqs]``)."""
